"""A server whose streams are oversize, cut, shuffled, repeated, damaged, slow or without end."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from attacks.hostile import HostileServer, go, serving_hostile
from attacks.world import SITES, World
from numpy.typing import NDArray

from hortus.client.trainer import Trainer
from hortus.learning.loader import Loader
from hortus.protocol.limits import CHUNK_WORDS, MAX_MESSAGE_BYTES
from hortus.protocol.vectors import fill, split
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.logs import Form, _Formatter, configure_logging

Adapter = NDArray[np.float32]
LogOf = Callable[[str], str]

# Every attack here is over within a few seconds, or the site hangs.
SECONDS = 30.0
SHORT = {"join_deadline": 2.0, "step_deadline": 1.0}


@pytest.fixture
def impatient(make_world: Callable[..., World]) -> World:
    """A world whose plan has deadlines of a second or two."""
    return make_world(cohort=SHORT)


def play_one(world: World, server: HostileServer) -> float:
    """Lets ash take part beside honest others; returns the seconds until the last has left."""
    started = time.monotonic()
    with serving_hostile(server, world.consortium.server.tls) as port:
        world.play(port, seconds=SECONDS)
    return time.monotonic() - started


def _whole(adapter: Adapter) -> wire.Chunk:
    """The adapter in its one chunk."""
    return next(split(adapter))


def _oversize(_: Adapter) -> Iterator[wire.Chunk]:
    yield _whole(np.zeros(CHUNK_WORDS, np.float32))


def _too_many_bytes(_: Adapter) -> Iterator[wire.Chunk]:
    yield wire.Chunk(words=bytes(MAX_MESSAGE_BYTES + 1))


def _empty(_: Adapter) -> Iterator[wire.Chunk]:
    yield from ()


def _truncated(adapter: Adapter) -> Iterator[wire.Chunk]:
    yield _whole(adapter[:-1])


def _cut_word(adapter: Adapter) -> Iterator[wire.Chunk]:
    yield fill(wire.Chunk(), 0, _whole(adapter).words[:-1])


def _reordered(adapter: Adapter) -> Iterator[wire.Chunk]:
    yield fill(wire.Chunk(), 1, _whole(adapter).words)
    yield fill(wire.Chunk(), 0, _whole(adapter).words)


def _duplicated(adapter: Adapter) -> Iterator[wire.Chunk]:
    yield _whole(adapter)
    yield _whole(adapter)


def _damaged(adapter: Adapter) -> Iterator[wire.Chunk]:
    chunk = _whole(adapter)
    chunk.checksum ^= 1
    yield chunk


def _endless(adapter: Adapter) -> Iterator[wire.Chunk]:
    for number in count():
        yield fill(wire.Chunk(), number, _whole(adapter).words)


def _endless_nothing(_: Adapter) -> Iterator[wire.Chunk]:
    for number in count():
        yield fill(wire.Chunk(), number, b"")


def _other(adapter: Adapter) -> Iterator[wire.Chunk]:
    yield from split(adapter + 1)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (_oversize, "chunk 0 has 1048576 bytes, not 16780"),
        (_too_many_bytes, "RESOURCE_EXHAUSTED"),
        (_empty, "the vector ended after 0 of its 1 chunks"),
        (_truncated, "chunk 0 has 16776 bytes, not 16780"),
        (_cut_word, "chunk 0 has 16779 bytes, not 16780"),
        (_reordered, "chunk 1 came where 0 was due"),
        (_duplicated, "a chunk came after the 4195 words"),
        (_damaged, "chunk 0 is damaged"),
        (_endless, "a chunk came after the 4195 words"),
        (_endless_nothing, "chunk 0 has 0 bytes"),
        (_other, "the received adapter is not the announced one"),
    ],
)
def test_a_malformed_adapter_is_refused_before_anything_is_paid_or_sent(
    world: World,
    adapter: Adapter,
    log_of: LogOf,
    stream: Callable[[Adapter], Iterator[wire.Chunk]],
    reason: str,
) -> None:
    class Streaming(HostileServer):
        def chunks(self, site: str, digest: str) -> Iterator[wire.Chunk]:
            return stream(adapter)

    server = Streaming(lambda site: [go(adapter)] if site == "ash" else [], [adapter])
    play_one(world, server)
    assert reason in log_of("ash")
    assert not server.uploads
    assert not world.charges("ash")


def test_an_adapter_that_is_not_finite_is_refused(world: World, log_of: LogOf) -> None:
    """It would turn every gradient, and so every message, into the same constant."""
    poisoned = np.full(world.workbench.space.dimension, np.inf, np.float32)
    server = HostileServer(lambda site: [go(poisoned)] if site == "ash" else [], [poisoned])
    play_one(world, server)
    assert "not finite" in log_of("ash")
    assert not world.charges("ash")


class _Waiting(HostileServer):
    """Waits, for as long as the site holds on."""

    def wait(self, context: Any) -> None:
        while context.is_active():
            time.sleep(0.05)


class SilentAnnounce(_Waiting):
    def Announce(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.wait(context)


class SilentEncapsulate(_Waiting):
    def Encapsulate(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.wait(context)


class SilentReady(_Waiting):
    def Ready(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.wait(context)


class SlowAdapter(_Waiting):
    def Adapter(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.wait(context)
        yield wire.Chunk()


@pytest.mark.parametrize(
    ("server_class", "seconds"),
    [(SilentAnnounce, 4), (SilentEncapsulate, 4), (SilentReady, 5), (SlowAdapter, 1)],
)
def test_a_server_that_keeps_a_site_waiting_is_left(
    impatient: World,
    log_of: LogOf,
    server_class: type[HostileServer],
    seconds: int,
) -> None:
    adapter = np.zeros(impatient.workbench.space.dimension, np.float32)
    server = server_class(lambda _: [go(adapter)], [adapter])
    play_one(impatient, server)
    for site in SITES:
        assert f"the aggregation service did not answer within {seconds} s" in log_of(site)
        assert not impatient.charges(site)


class SilentReadyAfterKeys(SilentReady):
    """Tells when a site waits."""

    def __init__(self, turns: Any, adapters: Any) -> None:
        super().__init__(turns, adapters)
        self.waits = threading.Event()

    def wait(self, context: Any) -> None:
        self.waits.set()
        super().wait(context)


def _stopped(world: World, server: HostileServer, when: threading.Event, grace: float) -> float:
    """Lets all sites take part and stops ash's agent; returns the seconds that this took."""
    with serving_hostile(server, world.consortium.server.tls) as port:
        agent = world.agent(world.site("ash"), port)
        others = {name: world.request() for name in SITES if name != "ash"}
        leaving = threading.Thread(target=agent.take_part, args=(world.request(),), name="stopped")
        rest = threading.Thread(target=world.play, args=(port, others))
        for thread in (leaving, rest):
            thread.start()
        assert when.wait(SECONDS)
        started = time.monotonic()
        agent.stop(grace)
        took = time.monotonic() - started
        leaving.join(1)
        assert not leaving.is_alive(), "the agent's ledger is closed now, and the session goes on"
    rest.join(SECONDS)
    return took


def test_a_site_that_is_stopped_does_not_wait_for_a_server_that_has_vanished(
    make_world: Callable[..., World],
) -> None:
    world = make_world(cohort=SHORT | {"join_deadline": 2, "step_deadline": 20})
    server = SilentReadyAfterKeys(lambda _: [], [])
    assert _stopped(world, server, server.waits, 60) < 15
    assert not world.charges("ash")


def test_a_step_that_outlasts_the_grace_is_given_up_unpaid(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, log_of: LogOf
) -> None:
    """A process that is told to end must not wait for hours of gradients."""
    world = make_world(cohort=SHORT | {"join_deadline": 4, "step_deadline": 4})
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    computes, leaving = threading.Event(), list[Any]()
    clipped_sum, batches = Trainer._clipped_sum, Loader.batches

    def followed(self: Trainer, *arguments: Any) -> Any:
        # Passes are taken in other threads: what they are of tells whose they are.
        if threading.current_thread().name == "stopped":
            leaving.append(self._records)
        return clipped_sum(self, *arguments)

    def endless(self: Any, encoded: Any, chosen: Any, size: int) -> Iterator[Any]:
        if not any(encoded is records for records in leaving):
            yield from batches(self, encoded, chosen, size)
            return
        while True:
            computes.set()
            yield from batches(self, encoded, np.arange(1), size)

    monkeypatch.setattr(Trainer, "_clipped_sum", followed)
    monkeypatch.setattr(Loader, "batches", endless)
    server = HostileServer(lambda _: [go(adapter)], [adapter])
    assert _stopped(world, server, computes, 0.5) < 10
    assert not world.charges("ash")
    assert not world.refusals("ash")
    assert "the step was abandoned because this site is being stopped" in log_of("stopped")


def test_a_server_that_does_not_read_an_upload_is_left(impatient: World, log_of: LogOf) -> None:
    """The vector is charged by then; it is never sent a second time."""

    class Unread(_Waiting):
        def Upload(self, parts: Any, context: Any) -> Any:  # noqa: N802
            self.wait(context)

    adapter = np.zeros(impatient.workbench.space.dimension, np.float32)
    server = Unread(lambda _: [go(adapter), go(adapter)], [adapter])
    play_one(impatient, server)
    for site in SITES:
        assert "the server did not accept step 0 attempt 0" in log_of(site)
        assert "asked for step 0 attempt 0 after (0, 0)" in log_of(site)
        assert len(impatient.charges(site)) == 1


def test_oversize_messages_are_refused(world: World, log_of: LogOf) -> None:
    class Oversize(HostileServer):
        def announcements(self, site: str) -> list[wire.Announcement]:
            large = wire.Announcement(site="birch", mlkem=bytes(MAX_MESSAGE_BYTES))
            return [*super().announcements(site), large]

    server = Oversize(lambda _: [], [])
    play_one(world, server)
    assert "RESOURCE_EXHAUSTED" in log_of("ash")


FORGED = "2026-11-27T12:00:00.000+00:00 INFO the session is over: all rounds are done"
STATUS = f"no\n{FORGED}\r\n{FORGED}\u2028{FORGED}\x1b[2J\x9b8m\u202e\x00" + "y" * 5000


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """Where all agents log, by the formatter that they have in a deployment."""
    logger = logging.getLogger("hortus")
    level = logger.level
    path = tmp_path / "agent.log"
    configure_logging(path, Form.TEXT)
    yield path
    logger.setLevel(level)
    logger.propagate = True
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
@pytest.mark.parametrize(
    "call", ["Announce", "Encapsulate", "Ready", "Adapter", "Upload", "Progress"]
)
def test_no_status_of_the_servers_making_writes_lines_into_a_log(
    make_world: Callable[..., World],
    log_file: Path,
    call: str,
    code: grpc.StatusCode,
) -> None:
    """Every call of the interface is ended with a status that forges lines and commands terminals."""
    world = make_world(cohort=SHORT)
    aborted = []

    def abort(self: Any, request: Any, context: Any) -> Any:
        del self
        # An upload that breaks is what a site asks the progress of.
        status = grpc.StatusCode.UNAVAILABLE if call == "Progress" and not aborted else code
        aborted.append(type(request).__name__)
        context.abort(status, STATUS)

    hostile = type("Aborting", (HostileServer,), {call: abort})
    if call == "Progress":
        hostile.Upload = abort
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    play_one(world, hostile(lambda _: [go(adapter)], [adapter]))
    assert aborted
    lines = log_file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert any(code.name in line for line in lines)
    assert all(map(str.isprintable, lines))
    assert not any(line.startswith(FORGED[:30]) for line in lines)
    assert max(map(len, lines)) < 2100


def test_both_forms_of_a_log_clean_what_any_caller_says(tmp_path: Path) -> None:
    record = logging.LogRecord("hortus", logging.INFO, "", 0, "%s", (STATUS,), None)
    for form in Form:
        line = _Formatter(form).format(record)
        assert line.isprintable()
        assert not line.startswith(FORGED[:30])
