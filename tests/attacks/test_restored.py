"""A virtual machine restored to the middle of a step, memory and disk, and asked for it once more."""

import copy
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.hostile import HostileServer, go, serving_hostile
from attacks.world import SITES, World
from numpy.typing import NDArray

from hortus.client.session import Session
from hortus.client.site.folder import Site
from hortus.client.states import ClientState
from hortus.client.trainer import Trainer
from hortus.privacy.noise.randomness import RandomSource, SessionRandomness
from hortus.privacy.secure_sum.masks import MaskGenerator
from hortus.protocol.wire import aggregation_pb2 as wire

Adapter = NDArray[np.float32]


class Machine:
    """The site ash, of which a snapshot is made when its session has its keys.

    Attributes:
        vectors: What it computed, before masks, in order.
    """

    def __init__(self, world: World, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.world, self.directory, self.vectors = world, directory, []
        self._masks: MaskGenerator | None = None
        self._source: RandomSource = SessionRandomness()
        exchange, vector = Session._exchange_keys, Trainer.vector

        def exchanged(session: Session) -> MaskGenerator:
            if threading.current_thread().name == "restored":
                session._states.enter(ClientState.ANNOUNCED)
                session._states.enter(ClientState.KEYED)
                return copy.deepcopy(self._masks)
            masks = exchange(session)
            if threading.current_thread().name == "ash":
                self._masks = copy.deepcopy(masks)
                shutil.copytree(world.consortium.site("ash").directory, directory)
            return masks

        def computed(trainer: Trainer, *arguments: Any) -> NDArray[np.int64]:
            found = vector(trainer, *arguments)
            if threading.current_thread().name in ("ash", "restored"):
                self.vectors.append(found.copy())
            return found

        def drawn(_: Any, contract: Any, site: str) -> RandomSource:
            if threading.current_thread().name == "restored":
                return self._source
            source = SessionRandomness()
            if site == "ash":
                self._source = source
            return source

        patch.setattr(Session, "_exchange_keys", exchanged)
        patch.setattr(Trainer, "vector", computed)
        patch.setattr("hortus.client.agent._randomness", drawn)

    def run(self, turn: wire.Go, adapters: list[Adapter]) -> NDArray[np.uint32]:
        """Goes through the session with the others; returns what ash uploads."""
        server = HostileServer(lambda _: [turn], adapters)
        with serving_hostile(server, self.world.consortium.server.tls) as port:
            self.world.play(port)
        return server.uploads["ash", turn.step, turn.attempt]

    def restore(self, turn: wire.Go, adapters: list[Adapter]) -> NDArray[np.uint32]:
        """Runs ash alone from the snapshot; returns what it uploads."""
        server = HostileServer(lambda _: [turn], adapters)
        with (
            serving_hostile(server, self.world.consortium.server.tls) as port,
            Site(self.directory, clock=lambda: 1.0) as site,
        ):
            agent = self.world.agent(site, port)
            thread = threading.Thread(
                target=agent.take_part, args=(self.world.request(),), name="restored"
            )
            thread.start()
            thread.join(60)
        return server.uploads["ash", turn.step, turn.attempt]


@pytest.fixture
def machine(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Machine]:
    """Makes the machine; keyword arguments change the plan."""

    def make(**changes: Any) -> Machine:
        world = make_world(policy={"unsafe_seeded_noise": False}, **changes)
        return Machine(world, tmp_path / "snapshot", monkeypatch)

    return make


def test_a_machine_restored_in_a_step_sends_the_same_vector_again(
    machine: Callable[..., Machine], adapter: Adapter
) -> None:
    """A second vector under the masks of the first would give their difference, without any mask."""
    ash = machine()
    first = ash.run(go(adapter), [adapter])
    assert np.array_equal(ash.restore(go(adapter), [adapter]), first)


@pytest.mark.parametrize("what", ["adapter", "survivors", "attempt"])
def test_a_machine_restored_in_a_step_draws_other_noise_for_another(
    machine: Callable[..., Machine], adapter: Adapter, what: str
) -> None:
    """The same noise would show by how much the gradients of two adapters differ."""
    ash = machine()
    other = {
        "adapter": go(adapter + np.float32(1e-3)),
        "survivors": go(adapter, survivors=SITES[:3]),
        "attempt": go(adapter, attempt=1),
    }[what]
    first = ash.run(go(adapter), [adapter])
    second = ash.restore(other, [adapter, adapter + np.float32(1e-3)])
    assert not np.array_equal(first, second)
    one, two = ash.vectors
    assert np.std(one - two) > 1.2 * np.std(one)


def test_a_vector_that_may_be_sent_again_is_the_same_after_a_restoration(
    machine: Callable[..., Machine], adapter: Adapter
) -> None:
    """Mode local: any attempt at a step carries the one vector that was charged."""
    ash = machine(privacy={"noise": "local"})
    first = ash.run(go(adapter), [adapter])
    assert not np.array_equal(ash.restore(go(adapter, attempt=1), [adapter]), first), "other masks"
    assert np.array_equal(*ash.vectors)
