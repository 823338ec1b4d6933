"""Whoever adds up, training takes the same steps, and stands at a whole step whenever it is looked at."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Plan
from hortus.strategies.loop import steps
from hortus.strategies.server_state import ServerState

DIMENSION = 5
SITES = ("ash", "birch")


class Sums:
    """Sums that depend on what they start from, and are remembered."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, NDArray[np.float32]]] = []

    def __call__(
        self, number: int, start: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
        self.asked.append((number, start))
        total = (start * 1000).astype(np.int64) + number + np.arange(len(start))
        return total.astype(np.uint32), SITES


@pytest.fixture
def encoding(plan: Plan) -> PrivateStep:
    contract = plan.contract(model_digest="a" * 64, noise_multiplier=1.0)
    return PrivateStep.of(contract, DIMENSION, len(SITES))


def fresh(encoding: PrivateStep) -> ServerState:
    return ServerState(encoding.contract, np.ones(DIMENSION, np.float32))


def test_each_step_starts_where_the_last_one_led(encoding: PrivateStep) -> None:
    trained, add_up = fresh(encoding), Sums()
    for index, step in enumerate(steps(trained, encoding, range(3, 7), add_up)):
        assert (step.number, step.sites) == (3 + index, SITES)
        assert add_up.asked[-1][0] == step.number
        assert np.array_equal(add_up.asked[-1][1], step.start)
        assert not np.array_equal(trained.start(encoding), step.start), "it has been taken"
    assert [number for number, _ in add_up.asked] == [3, 4, 5, 6]


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_training_that_is_resumed_comes_to_the_same_bits(
    encoding: PrivateStep, stop_after: int
) -> None:
    whole = fresh(encoding)
    list(steps(whole, encoding, range(4), Sums()))
    first, second = fresh(encoding), fresh(encoding)
    if stop_after:
        for step in steps(first, encoding, range(4), Sums()):
            if step.number + 1 == stop_after:
                break
    second.restore(first.state())
    list(steps(second, encoding, range(stop_after, 4), Sums()))
    assert np.array_equal(second.adapter, whole.adapter)
