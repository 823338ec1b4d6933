"""What ε and δ leave to an attacker: never less than the best test finds, and hardly more."""

import math

import pytest
from scipy.stats import norm

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.attacks.detection import true_positive_bound, true_positive_bound_of

DELTA = 1e-5


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_the_curve_bounds_the_best_test_of_a_gaussian_tightly(
    noise_multiplier: float, rate: float
) -> None:
    """Dong et al. (2022), Definition 2.6: the best test of N(0, 1) against N(1/σ, 1)."""
    best = float(norm.cdf(norm.ppf(rate) + 1 / noise_multiplier))
    bound = true_positive_bound_of({GaussianEvent(1.0, noise_multiplier): 1}, rate)
    assert best <= bound <= best * 1.001
    spent = epsilon({GaussianEvent(1.0, noise_multiplier): 1}, DELTA)
    assert bound <= true_positive_bound(spent, DELTA, rate)


def test_the_bound_on_a_test_is_that_of_randomised_response() -> None:
    """Answering truly with probability e^ε/(1 + e^ε) is the worst that (ε, 0) allows."""
    truthful = math.e / (1 + math.e)
    assert true_positive_bound(1.0, 0.0, 1 - truthful) == pytest.approx(truthful)
    assert true_positive_bound(0.0, 0.25, 0.5) == 0.75
    assert (
        true_positive_bound(math.inf, 0.0, 0.01)
        == true_positive_bound_of({GaussianEvent(1.0, 0.01): 10}, 0.01)
        == 1
    )
    assert true_positive_bound_of({}, 0.01) == pytest.approx(0.01)
