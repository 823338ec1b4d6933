"""A full disk, a clock that jumps, a site that is slow, a network that swallows everything."""

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks.test_clients import served
from attacks.world import SITES, World, run_all

from hortus.client.agent import SiteAgent
from hortus.client.channel import dialling
from hortus.client.pace import RehearsalClock
from hortus.client.site.folder import Site
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.identity import Roster
from hortus.runtime.errors import HortusError
from hortus.runtime.files import write_atomic
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore
from hortus.server.sums.aggregator import StepSum

HONEST = SITES[:3]
LAST = SITES[3]
DEADLINE = 5.0


def sums_with(
    world: World, take_part: Callable[[int], object], steps: int = 1
) -> tuple[list[StepSum], dict[str, str]]:
    """Makes sums with three sound sites while the last one takes part in a way of its own."""
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    sums: list[StepSum] = []
    with served(world) as (session, port):

        def serve() -> None:
            session.exchange_keys()
            sums.extend(session.sum(step, adapter) for step in range(steps))
            session.close("done")

        work: dict[str, Callable[[], object]] = {
            "server": serve,
            "sound": lambda: world.play(port, dict.fromkeys(HONEST, world.request())),
            LAST: lambda: take_part(port),
        }
        run_all(work, 120)
    for step, result in enumerate(sums):
        expected = world.true_sum(result.sites, step, result.attempts - 1, adapter)
        assert np.array_equal(result.total, expected)
    return sums, dict(session.departures)


def test_a_site_that_is_far_slower_than_the_rest_is_left_out_at_the_deadline(
    make_world: Callable[..., World],
) -> None:
    world = make_world(cohort={"step_deadline": DEADLINE})

    @contextmanager
    def slow(phase: str) -> Iterator[None]:
        if phase == "gradients":
            time.sleep(2 * DEADLINE)
        yield

    def take_part(port: int) -> None:
        site = world.site(LAST)
        connect = partial(dialling, f"127.0.0.1:{port}", site.files.tls)
        # A bench of its own, or the others would wait for the model that it holds.
        bench = Workbench(world.contract, Path(world.contract.model))
        SiteAgent(site, lambda _: bench, connect, slow, RehearsalClock()).take_part(world.request())

    (result,), departures = sums_with(world, take_part)
    assert (result.sites, result.attempts) == (HONEST, 2)
    assert departures == {LAST: "sent no vector for step 0 in time"}


class StallingProxy:
    """Passes bytes on until it is told to stall; then it takes everything and passes on nothing."""

    def __init__(self, target: int) -> None:
        self.stalled = threading.Event()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                if not self.stalled.is_set():
                    sink.sendall(data)


def test_a_network_that_swallows_everything_costs_one_site_one_session(
    make_world: Callable[..., World], log_of: Callable[[str], str]
) -> None:
    """Cut while the site computes: no end of the connection is told that it is gone."""
    world = make_world(cohort={"join_deadline": 8.0, "step_deadline": DEADLINE})
    proxies: list[StallingProxy] = []

    @contextmanager
    def cutting(phase: str) -> Iterator[None]:
        yield
        if phase == "gradients":
            proxies[0].stalled.set()

    def take_part(port: int) -> None:
        proxies.append(StallingProxy(port))
        site = world.site(LAST)
        connect = partial(dialling, f"127.0.0.1:{proxies[0].port}", site.files.tls)
        SiteAgent(site, lambda _: world.workbench, connect, cutting, RehearsalClock()).take_part(
            world.request()
        )

    (result,), departures = sums_with(world, take_part)
    assert result.sites == HONEST
    assert departures == {LAST: "sent no vector for step 0 in time"}
    assert "did not answer within" in log_of(LAST)
    assert len(world.charges(LAST)) == 1, "paid, and perhaps sent: never again for nothing"


def test_a_site_that_cannot_write_its_ledger_sends_nothing_and_says_why(
    world: World, log_of: Callable[[str], str]
) -> None:
    """Read-only from the moment when the charge is to be made durable."""

    def take_part(port: int) -> None:
        site = world.site(LAST)
        commit = site.ledger.commit

        def failing(reservation: Any) -> Any:
            site.ledger._connection.execute("PRAGMA query_only = ON")
            return commit(reservation)

        site.ledger.commit = failing  # type: ignore[method-assign]
        world.agent(site, port).take_part(world.request())

    (result,), departures = sums_with(world, take_part)
    assert result.sites == HONEST
    assert departures == {LAST: "it failed; its own log says why"}
    assert not world.charges(LAST)
    assert "attempt to write a readonly database" in log_of(LAST)


def test_a_full_disk_leaves_a_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_atomic(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(HortusError, match="cannot be written: File too large"):
            write_atomic(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_round_that_cannot_be_written_is_not_finished(world: World, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run", world.contract)
    (tmp_path / "run" / "run.sqlite-wal").unlink(missing_ok=True)
    (tmp_path / "run" / "run.sqlite-wal").mkdir()
    record = RoundRecord(round=0, sites=SITES, attempts=1, sums=1, epsilon=None, metrics=())
    with pytest.raises(HortusError, match="round"):
        store.commit(record, {"adapter": torch.zeros(3)})
    (tmp_path / "run" / "run.sqlite-wal").rmdir()
    assert RunStore(tmp_path / "run", world.contract).next_round == 0


@pytest.mark.parametrize("jump", [-86_400.0 * 400, 86_400.0 * 400])
def test_a_clock_that_jumps_changes_times_alone(world: World, jump: float) -> None:
    clock = iter([1e9, 1e9 + jump, *([1e9 + 1] * 1000)])
    files = world.consortium.site("ash")
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    with Site(files.directory, clock=lambda: next(clock)) as site:

        def take_part(port: int) -> None:
            world.agent(site, port).take_part(world.request())

        with served(world) as (session, port):

            def serve() -> None:
                session.exchange_keys()
                for step in range(3):
                    session.sum(step, adapter)
                session.close("done")

            others = dict.fromkeys(SITES[1:], world.request())
            run_all(
                {
                    "server": serve,
                    "others": lambda: world.play(port, others),
                    "ash": lambda: take_part(port),
                },
                90,
            )
    assert len(world.charges("ash")) == 3
    assert audit(collect(files, "ash"), Roster.load(files.roster)).first_broken is None
