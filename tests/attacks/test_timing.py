"""A server with a clock, against real agents: what one long record takes does not show in it."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.hostile import HostileServer, go, serving_hostile
from attacks.world import SITES, World, run_all
from numpy.typing import NDArray

from hortus.client.consent.approval import approve_unasked
from hortus.client.disclosure import FAILED
from hortus.client.pace import Clock, MachineClock
from hortus.learning.data.records import Records
from hortus.protocol.wire import aggregation_pb2 as wire

pytestmark = pytest.mark.minutes

WorldMaker = Callable[..., World]
STEPS = 3
PACE = 3.0
# The long record takes this much more than a short one; tests share their machine with others.
COST = 1.0
TOLERANCE = 0.4
TOKENS = 16


class Watching(HostileServer):
    """Honest in all but that it notes when ash was given an adapter, and when ash uploads."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.given, self.seconds = 0.0, list[float]()

    def chunks(self, site: str, digest: str) -> Iterator[wire.Chunk]:
        yield from super().chunks(site, digest)
        if site == "ash":
            self.given = time.monotonic()

    def uploading(self, site: str) -> None:
        if site == "ash":
            self.seconds.append(time.monotonic() - self.given)


@pytest.fixture
def make_slow_world(
    make_world: WorldMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bool], World]:
    """Makes a world whose model takes time for each token, as larger ones do; ash has the victim or not."""

    def make(with_victim: bool) -> World:
        world = make_world(training={"sampling_rate": 1.0, "rounds": STEPS}, cohort={"pace": PACE})
        rows = ["the sky is blue,cool"] * 3
        rows += [f"{'the sky is blue ' * TOKENS},cool"] if with_victim else []
        (tmp_path / "ash.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
        loader, gradients = world.workbench.loader, world.workbench.gradients
        encode, clipped_sum = type(loader).encode, gradients.clipped_sum

        def slow_encode(records: Records) -> Any:
            encoded = encode(loader, records)
            time.sleep(COST * sum(len(one.tokens) == TOKENS for one in encoded.examples))
            return encoded

        def slow_sum(batches: Any, *rest: Any) -> Any:
            held = list(batches)
            for batch in held:
                lengths = batch.inputs["attention_mask"].sum(1)
                time.sleep(COST * float((lengths == TOKENS).sum()))
            return clipped_sum(iter(held), *rest)

        monkeypatch.setattr(loader, "encode", slow_encode)
        monkeypatch.setattr(gradients, "clipped_sum", slow_sum)
        return world

    return make


def seconds_of_steps(
    world: World, adapters: list[NDArray[np.float32]], clock: Clock
) -> list[float]:
    """Lets all sites make some steps; returns the seconds from an adapter's last byte to ash's upload."""
    turns = [go(adapter, step) for step, adapter in enumerate(adapters)]
    server = Watching(lambda _: turns, adapters)
    with serving_hostile(server, world.consortium.server.tls) as port:
        agents = {s: world.agent(world.site(s), port, clock) for s in SITES}
        run_all({s: partial(_prepare, world, a) for s, a in agents.items()}, 90)
        run_all({s: partial(a.take_part, world.request()) for s, a in agents.items()}, 90)
    assert len(server.seconds) == len(adapters)
    return server.seconds


def _prepare(world: World, agent: Any) -> None:
    while (reply := agent.consider(world.question(world.contract))).again:
        time.sleep(reply.again)
    assert not reply.refusal


def medians(
    make_slow_world: Callable[[bool], World], measure: Callable[[World], list[float]]
) -> tuple[float, float]:
    """What a server finds without the victim's record and with it."""
    without, with_victim = (measure(make_slow_world(victim)) for victim in (False, True))
    return statistics.median(without), statistics.median(with_victim)


@pytest.fixture
def adapters(world: World) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(1)
    size = world.workbench.space.dimension
    return [generator.normal(0, 0.05, size).astype(np.float32) for _ in range(STEPS)]


def test_a_record_that_takes_longer_does_not_show_in_when_a_vector_is_sent(
    make_slow_world: Any, adapters: list[NDArray[np.float32]]
) -> None:
    without, with_victim = medians(
        make_slow_world, lambda world: seconds_of_steps(world, adapters, MachineClock())
    )
    assert abs(with_victim - without) < TOLERANCE
    assert without > PACE - TOLERANCE


def test_a_record_that_takes_longer_does_not_show_in_an_answer(make_slow_world: Any) -> None:
    """Neither in the seconds of the first answers, nor in when the site is ready, nor at a repetition."""

    def measure(world: World) -> list[float]:
        agent = world.agent(world.site("ash"), port=1, clock=MachineClock())
        seconds, began = [], time.monotonic()
        while True:
            asked = time.monotonic()
            reply = agent.consider(world.question(world.contract))
            seconds.append(time.monotonic() - asked)
            if not reply.again:
                break
            time.sleep(reply.again)
        assert not reply.refusal
        return [max(seconds), time.monotonic() - began]

    found = [measure(make_slow_world(victim)) for victim in (False, True)]
    assert np.abs(np.subtract(*found)).max() < TOLERANCE


def test_records_encoded_for_another_plan_do_not_delay_a_step(
    make_world: WorldMaker, adapters: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that asks about another plan in the middle of a step does not learn how long encoding takes."""
    world = make_world(training={"rounds": STEPS}, cohort={"pace": 1.0})
    task = world.contract.task.model_copy(update={"max_length": TOKENS // 2})
    other = world.contract.model_copy(update={"task": task})
    agents: dict[str, Any] = {}
    begun, released, encode = threading.Event(), threading.Event(), world.workbench.loader.encode

    class Asking(Watching):
        def chunks(self, site: str, digest: str) -> Iterator[wire.Chunk]:
            if site == "ash" and not begun.is_set():
                assert agents["ash"].consider(world.question(other)).again
                assert begun.wait(20)
            yield from super().chunks(site, digest)

    def endless(records: Records) -> Any:
        if threading.current_thread().name == "prepares":
            begun.set()
            released.wait(60)
        return encode(records)

    server = Asking(lambda _: [go(adapter, i) for i, adapter in enumerate(adapters)], adapters)
    with serving_hostile(server, world.consortium.server.tls) as port:
        for name in SITES:
            site = world.site(name)
            approve_unasked(site, other, "Ada")
            agents[name] = world.agent(site, port, MachineClock())
        run_all({s: partial(_prepare, world, a) for s, a in agents.items()}, 40)
        monkeypatch.setattr(world.workbench.loader, "encode", endless)
        try:
            run_all({s: partial(a.take_part, world.request()) for s, a in agents.items()}, 40)
        finally:
            released.set()
    assert begun.is_set()
    assert len(server.seconds) == STEPS


def test_too_little_memory_shows_before_anything_depends_on_a_record(
    make_world: WorldMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site does not even dial: a port where nobody listens is no hindrance."""
    world = make_world()
    agent = world.agent(world.site("ash"), port=1, clock=MachineClock())
    _prepare(world, agent)

    def too_large(batches: Any, *_: Any) -> Any:
        assert {int(n) for b in batches for n in b.inputs["attention_mask"].sum(1)} == {TOKENS}
        raise MemoryError

    monkeypatch.setattr(world.workbench.gradients, "clipped_sum", too_large)
    began = time.monotonic()
    reply = agent.take_part(world.request())
    assert (reply.steps, reply.reason) == (0, FAILED)
    assert time.monotonic() - began < 5
    assert not world.charges("ash")


def test_without_a_grid_it_would_show(
    make_slow_world: Any, adapters: list[NDArray[np.float32]]
) -> None:
    """What the tests above would find if agents answered as soon as they could."""

    class Hasty(MachineClock):
        observed = False

    without, with_victim = medians(
        make_slow_world, lambda world: seconds_of_steps(world, adapters, Hasty())
    )
    assert with_victim - without > 2 * TOLERANCE
