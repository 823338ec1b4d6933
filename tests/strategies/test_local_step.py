"""A strategy gets the private steps that a sum is charged for, and none that only others' noise protects."""

from typing import Any

import numpy as np
import pytest
from helpers.quadratic import CENTRES, START, Site, contract_with

from hortus.runtime.errors import HortusError

ALONE = {"kind": "fedavg", "local_optimizer": {"kind": "SGD"}}
BARE = {"noise": "unsafe_none"}
LOCAL = {"noise": "local", "noise_multiplier": 1.0}
SHARED = {"noise": "distributed", "noise_multiplier": 1.0}
ADAPTIVE = LOCAL | {"clipping": {"kind": "adaptive"}}


@pytest.mark.parametrize("privacy", [BARE, LOCAL], ids=["none", "local"])
@pytest.mark.parametrize("paid", [1, 2, 5])
def test_whoever_asks_for_more_steps_than_a_sum_is_charged_for_gets_none(
    paid: int, privacy: dict[str, Any]
) -> None:
    """Planted: without the count, a strategy of somebody else would release what nobody has paid for."""
    site = Site(contract_with(ALONE, paid, **privacy), CENTRES[0])
    steps = site.steps(START)
    for _ in range(paid):
        steps.gradient(START)
    for more in (steps.release, lambda: steps.gradient(START)):
        with pytest.raises(HortusError, match=f"more than the {paid} private steps"):
            more()
    assert site.taken == list(range(paid))


@pytest.mark.parametrize("privacy", [SHARED, ADAPTIVE], ids=["distributed", "adaptive"])
def test_nobody_looks_at_a_step_that_the_server_alone_may_see_summed(
    privacy: dict[str, Any],
) -> None:
    site = Site(contract_with({"kind": "fedsgd"}, **privacy), CENTRES[0])
    steps = site.steps(START)
    with pytest.raises(HortusError, match="may not look at its own step"):
        steps.gradient(START)
    assert site.taken == []


@pytest.mark.parametrize("privacy", [BARE, LOCAL], ids=["none", "local"])
def test_a_gradient_is_of_where_it_is_asked_for(privacy: dict[str, Any]) -> None:
    steps = Site(contract_with(ALONE, 2, **privacy), CENTRES[0]).steps(START)
    for adapter in (START, START + np.float32(2)):
        np.testing.assert_allclose(steps.gradient(adapter), adapter - CENTRES[0], atol=1e-6)


def test_what_is_made_of_gradients_is_cut_to_the_room_that_the_ring_has_for_it() -> None:
    site = Site(contract_with(ALONE, **LOCAL), CENTRES[0])
    encoded = site.steps(START).encode(np.array([0.5, -15.0, 17.0, -1e9]))
    decoded = site.encoding.fixed_point.decode(encoded.astype(np.uint32))
    np.testing.assert_allclose(decoded, [0.5, -15.0, 16.0, -16.0], atol=1e-6)
    with pytest.raises(ValueError, match="not finite"):
        site.steps(START).encode(np.full(4, np.nan))
