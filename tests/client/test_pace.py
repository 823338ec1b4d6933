"""When a site is heard does not depend on what its records take, as long as they meet the slot."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client.test_session import DIMENSION, SITES, Channel, Server, World, go
from hypothesis import given
from hypothesis import strategies as st

from hortus.client.pace import GROWTH, MachineClock, Pace, RehearsalClock, Timetable
from hortus.privacy.ledger.charges import Charged
from hortus.protocol.plan import Plan
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import DataError, HortusError

seconds = st.floats(0, 1e5)


@given(first=st.floats(1e-2, 100), elapsed=st.lists(seconds, max_size=20))
def test_every_time_is_on_the_grid_and_the_slot_only_becomes_longer(
    first: float, elapsed: list[float]
) -> None:
    pace = Pace(first)
    for took in elapsed:
        before = pace.slot
        due = pace.due(took)
        places = round(np.log(due / before) / np.log(GROWTH))
        assert due >= max(took, before)
        assert np.isclose(due, before * GROWTH**places)
        assert places == 0 or due / GROWTH < took * (1 + 1e-12)
        assert before <= pace.slot <= due * (1 + 1e-12)


def test_a_machine_that_stalls_once_is_not_slow_for_good() -> None:
    pace = Pace(1.0)
    assert pace.due(60) > 60
    assert pace.slot < 2
    assert pace.due(0.5) == pace.slot


def test_slots_follow_what_a_step_takes_and_then_stay() -> None:
    pace = Pace(0.1)
    slots = [pace.due(5.0 + 0.01 * (step % 7)) for step in range(100)]
    assert set(slots[10:]) == {pace.slot}
    assert 5 < pace.slot < 5.1 * GROWTH


class HandClock:
    """A clock that only moves when it is told to, or when somebody waits."""

    observed = True

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, unless: threading.Event) -> None:
        self.time += seconds


class Busy:
    """A trainer that takes so long for its vectors, or fails after so long."""

    def __init__(
        self, clock: HandClock, took: Sequence[float], failure: BaseException | None
    ) -> None:
        self._clock, self._took, self._failure = clock, iter(took), failure

    def vector(self, start: Any, step: int, attempt: int, told: bytes = b"") -> Any:
        self._clock.time += next(self._took)
        if self._failure is not None:
            raise self._failure
        return np.zeros(DIMENSION, np.int64)


class Watch(Channel):
    """The server's side of one site: notes when it hears what."""

    def __init__(self, server: Server, site: str, clock: HandClock) -> None:
        super().__init__(server, site)
        self.clock = clock
        self.heard: list[tuple[str, float]] = []

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        self.heard.append((f"ready {request.refusal}", self.clock.time))
        return super().ready(request)

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        self.clock.time += 0.7
        return super().adapter(request)

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        for part in parts:
            self.heard.append((part.WhichOneof("kind"), self.clock.time))
        return wire.Receipt()


@pytest.fixture
def heard(plan: Plan, tmp_path: Path) -> Callable[..., list[tuple[str, float]]]:
    """Lets three sites make two steps; returns what the server hears of ash, and ash's ledger shows."""
    contract = plan.contract(model_digest="a" * 64, noise_multiplier=5.0)
    count = iter(range(100))

    def play(
        took: Sequence[float], failure: BaseException | None = None, clock: Any = HandClock
    ) -> list[tuple[str, float]]:
        directory = tmp_path / str(next(count))
        directory.mkdir()
        world, server = World(contract, directory), Server(lambda _: [go(0), go(1)])

        def run(site: str) -> Watch:
            own = clock()
            watch = Watch(server, site, own)
            trainer = Busy(own, took, failure if site == "ash" else None)
            session = world.session(
                site, watch, trainer, Timetable(Pace(1.0), own), clock=lambda: own.time
            )
            try:
                session.run()
            except (HortusError, MemoryError, RuntimeError, ValueError):
                assert failure is not None
            return watch

        with ThreadPoolExecutor(3) as pool:
            watch = dict(zip(SITES, pool.map(run, SITES), strict=True))["ash"]
        entries = world.ledger("ash").entries()
        charged = [("charged", e.time) for e in entries if isinstance(e.body, Charged)]
        return watch.heard + charged

    return play


def test_what_a_step_takes_within_its_slot_is_not_heard(heard: Any) -> None:
    fast, slow = heard([0.01, 0.02]), heard([0.9, 0.999])
    assert [what for what, _ in fast].count("header") == 2
    assert fast == slow


def test_a_step_that_misses_its_slot_shows_the_number_of_the_next_and_no_more(heard: Any) -> None:
    one, other = heard([1.26, 0.3]), heard([1.56, 1.5])
    assert one == other
    assert one != heard([0.3, 0.3])


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("nan in record 7"),
        DataError("row 7", where="x"),
        HortusError("?"),
    ],
)
def test_a_failure_leaves_when_a_vector_would_have_and_in_the_same_words(
    heard: Any, failure: BaseException
) -> None:
    early, late = heard([0.01, 0], failure), heard([0.99, 0], failure)
    assert early == late == heard([0.5, 0], ValueError("another"))
    assert early[-1][0] == "ready it failed; its own log says why"
    vector = next(time for what, time in heard([0.5, 0.5]) if what == "header")
    assert early[-1][1] == vector


def test_nobody_waits_in_a_rehearsal() -> None:
    pace = Pace(3600.0)
    timetable = Timetable(pace, RehearsalClock())
    timetable.keep(timetable.now() - 4000, threading.Event())
    assert pace.slot == 3600.0


def test_who_is_told_to_stop_does_not_wait() -> None:
    stopped = threading.Event()
    timetable = Timetable(Pace(3600.0), MachineClock())
    threading.Timer(0.1, stopped.set).start()
    timetable.keep(timetable.now(), stopped)
