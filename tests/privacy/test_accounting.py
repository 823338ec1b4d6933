import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from hortus.privacy.accounting import (
    GaussianEvent,
    calibrate_noise_multiplier,
    epsilon,
    epsilon_prv,
    epsilon_rdp,
)
from hortus.protocol.errors import UsageError

DELTA = 1e-5


def analytic_gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Balle and Wang (2018), Theorem 8: the exact ε(δ) of one Gaussian without sampling."""

    def excess(value: float) -> float:
        a, b = 1 / (2 * noise_multiplier), value * noise_multiplier
        return float(norm.cdf(a - b) - math.exp(value) * norm.cdf(-a - b) - delta)

    return float(brentq(excess, 0, 100))


@pytest.mark.parametrize("noise_multiplier", [0.7, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("steps", [1, 16])
def test_without_sampling_it_is_the_analytic_gaussian(noise_multiplier: float, steps: int) -> None:
    exact = analytic_gaussian_epsilon(noise_multiplier / math.sqrt(steps), DELTA)
    bound = epsilon({GaussianEvent(1.0, noise_multiplier): steps}, DELTA)
    assert exact <= bound + 1e-9
    assert bound <= exact * 1.002 + 1e-3


HISTORIES = [
    {GaussianEvent(0.1, 1.0): 300},
    {GaussianEvent(0.01, 0.6): 1000},
    {GaussianEvent(0.5, 4.0): 50, GaussianEvent(0.1, 1.5): 100},
]


@pytest.mark.parametrize("history", HISTORIES)
def test_the_accountants_agree(history: dict[GaussianEvent, int]) -> None:
    bound = epsilon(history, DELTA)
    assert bound <= epsilon_rdp(history, DELTA)
    assert bound == pytest.approx(epsilon_prv(history, DELTA), rel=0.02)


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.01, 1),
    st.floats(0.6, 8),
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(1e-7, 1e-3),
)
def test_more_steps_or_a_smaller_delta_never_cost_less(
    rate: float, multiplier: float, steps: int, more: int, delta: float
) -> None:
    event = GaussianEvent(rate, multiplier)
    spent = epsilon({event: steps}, delta)
    assert 0 <= spent <= epsilon({event: steps + more}, delta) + 1e-9
    assert spent <= epsilon({event: steps}, delta / 10) + 1e-9


def test_the_order_of_entries_makes_no_difference() -> None:
    one, two = GaussianEvent(0.1, 1.0), GaussianEvent(0.3, 2.0)
    assert epsilon({one: 5, two: 7}, DELTA) == epsilon({two: 7, one: 5}, DELTA)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon({}, DELTA) == epsilon({GaussianEvent(0.5, 1.0): 0}, DELTA) == 0


@pytest.mark.parametrize("target", [0.5, 3.0, 8.0])
def test_calibration_is_the_smallest_noise_that_keeps_the_budget(target: float) -> None:
    multiplier = calibrate_noise_multiplier(target, DELTA, 0.1, 100)
    assert epsilon({GaussianEvent(0.1, multiplier): 100}, DELTA) <= target
    assert epsilon({GaussianEvent(0.1, multiplier - 1e-4): 100}, DELTA) > target


def test_a_wrong_delta_or_a_forgotten_step_breaks_the_budget() -> None:
    """The planted bugs that calibration and charge must not have."""
    multiplier = calibrate_noise_multiplier(3.0, DELTA, 0.1, 100)
    event = GaussianEvent(0.1, multiplier)
    assert epsilon({event: 101}, DELTA) > 3.0
    assert epsilon({event: 100}, DELTA / 2) > 3.0
    assert epsilon({GaussianEvent(0.11, multiplier): 100}, DELTA) > 3.0


@pytest.mark.parametrize(
    ("rate", "multiplier"), [(0, 1), (1.1, 1), (0.5, 0), (0.5, math.inf), (0.5, -1)]
)
def test_impossible_events_are_refused(rate: float, multiplier: float) -> None:
    with pytest.raises(UsageError):
        GaussianEvent(rate, multiplier)
