"""The adaptive rule: gradient and count together have the norm that is charged, and C comes to its quantile."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.clipping.adaptive import AdaptiveClipping
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engine import ClippedSum
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.runtime.errors import ProtocolError, UsageError

gradients = st.builds(
    lambda seed, power: np.random.default_rng(seed).normal(size=(5, 8)) * 10.0**power,
    st.integers(0, 2**32 - 1),
    st.integers(-12, 8),
)
norms = st.floats(1e-3, 1e3)
ADAPTIVE = AdaptiveClipping()
quantiles, weights = st.floats(0.01, 0.99), st.floats(1e-3, 2)
GRID = 2.0**-40


@given(gradients, norms, quantiles, weights)
def test_gradient_and_count_together_have_the_norm_that_is_charged(
    gradient: NDArray[np.float64], c: float, quantile: float, weight: float
) -> None:
    """Planted: a norm of 1, for the gradient alone, is exceeded by every unit that is cut."""
    rule = AdaptiveClipping(quantile=quantile, count_weight=weight)
    length = np.array([[np.linalg.norm(gradient)]])
    factor = float(rule.at(c).factors(torch.from_numpy(length * (1 + 1e-14))))
    added = np.append(gradient * factor, rule.tally(length, c, GRID))
    assert np.linalg.norm(added) <= rule.unit_norm * (1 + 1e-12)
    if length > c:
        assert np.linalg.norm(added) > 1


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 30.0), (0.5, 0.01), (0.8, 1.0)])
def test_the_norm_comes_to_the_quantile(quantile: float, start: float) -> None:
    """With the noise of a real step, and three times the units that the plan was told of."""
    rule = AdaptiveClipping(quantile=quantile)
    generator, c, late = np.random.default_rng(4), start, []
    for step in range(300):
        lengths = generator.lognormal(mean=1.0, sigma=0.7, size=(1, 300))
        noise = generator.normal(0, 1.1 * rule.unit_norm)
        c = rule.next_bound(c, rule.tally(lengths, c, GRID) + noise, nominal=100)
        if step >= 200:
            late.append((lengths <= c).mean())
    assert np.mean(late) == pytest.approx(quantile, abs=0.03)


@given(norms, st.floats(-1e12, 1e12))
def test_the_norm_stays_within_its_bounds_whatever_the_noise(c: float, count: float) -> None:
    following = ADAPTIVE.next_bound(c, count, 10.0)
    assert 0.999e-3 <= following <= 1.001e3
    assert c * math.exp(-0.2001) <= following <= c * math.exp(0.2001) or following in (
        1e-3,
        1e3,
    )


@pytest.fixture
def contract(write_plan: Any) -> Contract:
    plan = load_plan(write_plan(privacy={"clipping": {"kind": "adaptive"}, "clipping_norm": 0.5}))
    return plan.contract(model_digest="a" * 64, noise_multiplier=1.5)


def test_the_ring_vector_means_the_same_for_every_norm(contract: Contract) -> None:
    """So that a site need not trust the number: scale, noise and charge do not depend on it."""
    encoding = PrivateStep.of(contract, 20, 3)
    other = contract.model_copy(
        update={"privacy": contract.privacy.model_copy(update={"clipping_norm": 40.0})}
    )
    assert encoding.mechanism == PrivateStep.of(other, 20, 3).mechanism
    assert encoding.words == 21
    assert encoding.mechanism is not None
    assert encoding.mechanism.clipping_norm == ADAPTIVE.unit_norm
    assert encoding.mechanism.effective_noise_multiplier >= 1.5


def test_the_server_undoes_what_a_site_does(contract: Contract) -> None:
    encoding = PrivateStep.of(contract, 20, 3)
    gradient = np.linspace(-0.02, 0.03, 20)
    total = np.round(np.append(gradient / 0.5, 0.2 * 12) * encoding.codec.scale).astype(np.int64)
    update, following = encoding.mean_release(total.astype(np.uint32), 3, np.float32(0.5))
    assert update == pytest.approx(gradient / (0.5 * 60 * 3), rel=1e-3, abs=1e-6)
    assert following == pytest.approx(0.5 * math.exp(-0.2 * 12 / 90), rel=1e-5)


def test_an_addend_is_the_sum_and_the_weighted_count(contract: Contract) -> None:
    encoding = PrivateStep.of(contract, 3, 3)
    clipped_sum = ClippedSum(np.array([1.0, 2.0, 3.0]), np.array([[0.1, 0.5, 0.6, np.inf]]))
    assert encoding.addend(clipped_sum, 0.5).tolist() == [1.0, 2.0, 3.0, 0.0]
    *gradient, count = encoding.addend(clipped_sum, 0.6).tolist()
    assert gradient == [1.0, 2.0, 3.0]
    assert 0.2 - 4 * encoding.grid <= count <= 0.2
    assert (count / encoding.grid).is_integer()


@pytest.mark.parametrize("norm", [0.0, -1.0, 9e-4, 1e4, 1e30])
def test_a_norm_outside_of_the_plans_bounds_is_not_taken(contract: Contract, norm: float) -> None:
    encoding = PrivateStep.of(contract, 2, 3)
    with pytest.raises(ProtocolError, match="clipping norm received"):
        encoding.clipping_norm(np.array([0, 0, norm], np.float32))
    for fine in (1e-3, 0.7, 1e3):
        assert encoding.clipping_norm(np.array([0, 0, fine], np.float32)) == pytest.approx(fine)


def test_a_contract_states_every_number_of_its_rule() -> None:
    assert AdaptiveClipping(quantile=0.7).section.fields == {
        "kind": "adaptive",
        "quantile": 0.7,
        "rate": 0.2,
        "count_weight": 0.2,
        "smallest": 1e-3,
        "largest": 1e3,
        "unit_norm": 1.009753,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"smallest": 2.0, "largest": 1.0}, "smallest is more than largest"),
        ({"unit_norm": 1.0}, "unit_norm does not follow"),
        ({"quantile": 1.0}, "quantile"),
        ({"stability": 0.1}, "stability"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(fields: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CLIPPINGS.complete({"kind": "adaptive"} | fields)


@given(quantiles, weights)
def test_the_unit_norm_is_rounded_up_and_hardly(quantile: float, weight: float) -> None:
    found = AdaptiveClipping(quantile=quantile, count_weight=weight).unit_norm
    exact = math.hypot(1, weight * max(quantile, 1 - quantile))
    assert exact <= found <= exact + 1.01e-6
