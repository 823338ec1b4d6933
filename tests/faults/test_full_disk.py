"""A disk that really is full, or read-only: a small file system that the test mounts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from attacks.world import SITES, World, run_all, served

from hortus.client.agent import SiteAgent
from hortus.client.channel import dialling
from hortus.client.pace import RehearsalClock
from hortus.client.trainer import Stopwatch, untimed
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.protocol.identity import Roster
from hortus.runtime.errors import HortusError
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore

HORTUS = str(Path(sys.executable).with_name("hortus"))
BLOCK = 4096
HONEST, LAST = SITES[:3], SITES[3]
MountOver = Callable[[Path, int], None]


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"{done.stderr.strip()}: `unshare -rm pytest tests/faults` may mount as anybody"
        )


@pytest.fixture
def mount_over() -> Iterator[MountOver]:
    """Puts a folder, with what is in it, on a file system of so many KiB."""
    mounted: list[Path] = []

    def put(directory: Path, size: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory.with_name(f"{directory.name}.aside")
        shutil.copytree(directory, aside)
        mount("-t", "tmpfs", "-o", f"size={size}k", "hortus-test", str(directory))
        mounted.append(directory)
        shutil.copytree(aside, directory, dirs_exist_ok=True)

    yield put
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path, leave: int = 0) -> Path:
    """Takes all blocks of a disk but so many."""
    free = os.statvfs(directory).f_bavail - leave
    filler = directory / "filler"
    filler.write_bytes(bytes(BLOCK * free))
    assert os.statvfs(directory).f_bavail == leave
    return filler


def take_part(world: World, session: str, stopwatch: Stopwatch) -> dict[str, str]:
    """One sum of four sites, of which the last one is timed; returns who left, and why."""
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    request = world.request(world.descriptor(session=session))
    with served(world, session) as (aggregator, port):

        def serve() -> None:
            aggregator.exchange_keys()
            aggregator.sum(0, adapter)
            aggregator.close("done")

        def last() -> None:
            site = world.site(LAST)
            connect = partial(dialling, f"127.0.0.1:{port}", site.files.tls)
            SiteAgent(
                site, lambda _: world.workbench, connect, stopwatch, RehearsalClock()
            ).take_part(request)

        others = dict.fromkeys(HONEST, request)
        run_all({"server": serve, "others": lambda: world.play(port, others), LAST: last}, 90)
    return dict(aggregator.departures)


def test_a_site_whose_disk_is_full_sends_nothing_and_goes_on_when_there_is_room(
    world: World, log_of: Callable[[str], str], mount_over: MountOver
) -> None:
    """Full at the worst moment: the charge is reserved, and is to be made durable."""
    files = world.consortium.site(LAST)
    mount_over(files.directory, 1024)
    fillers: list[Path] = []

    @contextmanager
    def filling(phase: str) -> Iterator[None]:
        yield
        if phase == "gradients":
            fillers.append(fill(files.directory))

    departures = take_part(world, "a" * 32, filling)
    assert departures == {LAST: "it failed; its own log says why"}
    assert f"{files.ledger}: the disk is full — Nothing was sent. Make room" in log_of(LAST)
    fillers[0].unlink()
    assert not world.charges(LAST)
    assert take_part(world, "b" * 32, untimed) == {}
    assert world.charges(LAST) == [("b" * 32, 0, 0)]
    assert audit(collect(files, LAST), Roster.load(files.roster)).first_broken is None


def test_a_site_whose_disk_is_read_only_does_not_start_and_names_a_file(
    world: World, mount_over: MountOver
) -> None:
    files = world.consortium.site(LAST)
    with world.site(LAST):
        pass  # so that there is a ledger
    mount_over(files.directory, 1024)
    mount("-o", "remount,ro", str(files.directory))
    done = subprocess.run(
        [HORTUS, "client", str(files.directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "400"},
    )
    assert done.returncode == 1, done.stderr
    assert str(files.directory) in done.stderr
    assert "Read-only file system" in done.stderr
    with pytest.raises(HortusError, match=r"ledger\.sqlite: .*read-only"):
        world.site(LAST)


def test_a_run_loses_no_round_on_a_full_disk_and_goes_on_when_there_is_room(
    world: World, tmp_path: Path, mount_over: MountOver
) -> None:
    """However many blocks are left when a round is to be made durable."""
    directory = tmp_path / "run"
    mount_over(directory, 1024)
    state = {"adapter": torch.arange(3000.0)}
    problems = []
    for leave in range(24):
        number = RunStore(directory, world.contract).next_round
        store = RunStore(directory, world.contract)
        record = RoundRecord(
            round=number, sites=SITES, attempts=1, sums=1, epsilon=None, metrics=()
        )
        filler = fill(directory, leave)
        try:
            store.commit(record, state)
        except HortusError as error:
            problems.append(str(error))
        filler.unlink()
        again = RunStore(directory, world.contract)
        assert again.next_round in (number, number + 1)
        if again.next_round == number:
            again.commit(record, state)
        latest = again.latest_state()
        assert latest is not None
        assert torch.equal(latest["adapter"], state["adapter"])
        assert (directory / "metrics.jsonl").read_text().count("\n") == number + 1
    assert len(problems) > 3, "the disk was full at several points"
    assert all(str(directory) in problem for problem in problems)
    assert all("No space left on device" in p or "The disk is full" in p for p in problems)
