"""A flat adapter, stepped; its state is all that it needs to resume."""

import numpy as np
import pytest
import torch

from hortus.strategies.optimizers.kinds import OPTIMIZERS

START = np.array([1.0, -2.0, 0.0], np.float32)
GRADIENT = np.array([0.5, 0.25, -1.0])


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_it_keeps_its_own_copy_of_what_it_is_given_and_gives_copies(name: str) -> None:
    start = START.copy()
    optimizer = OPTIMIZERS.complete({"kind": name}).over(start)
    start[:] = 9
    first = optimizer.adapter
    first[:] = 9
    assert np.array_equal(optimizer.adapter, START)
    state = optimizer.state()
    kept = {name: value.clone() for name, value in state.items()}
    optimizer.step(GRADIENT)
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert optimizer.adapter.dtype == np.float32


def test_a_state_without_its_moments_leads_elsewhere() -> None:
    """What `restore` needs is more than the adapter."""
    kind = OPTIMIZERS.complete({"kind": "Adam"})
    one, other = kind.over(START), kind.over(START)
    one.step(GRADIENT)
    other.restore({"adapter": one.state()["adapter"]})
    assert not np.array_equal(one.step(-GRADIENT), other.step(-GRADIENT))
