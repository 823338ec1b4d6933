import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_two_probability_mass_functions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from hortus.privacy.accounting.accountant import (
    affordable_steps,
    calibrate_noise_multiplier,
    epsilon,
    epsilon_prv,
    epsilon_rdp,
    report,
)
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.noise.mechanism import Mechanism
from hortus.runtime.errors import UsageError

DELTA = 1e-5


def analytic_gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Balle and Wang (2018), Theorem 8: the exact ε(δ) of one Gaussian without sampling."""

    def excess(value: float) -> float:
        a, b = 1 / (2 * noise_multiplier), value * noise_multiplier
        return float(norm.cdf(a - b) - math.exp(value + norm.logcdf(-a - b)) - delta)

    middle = 0.5 / noise_multiplier**2
    return float(brentq(excess, 0, middle + 40 / noise_multiplier, rtol=1e-12))


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
    {GaussianEvent(1.0, 8.0): 20, GaussianEvent(0.1, 1.0): 20},
]


@pytest.mark.parametrize("history", HISTORIES)
def test_the_accountants_agree(history: dict[GaussianEvent, int]) -> None:
    bound = epsilon(history, DELTA)
    assert bound <= epsilon_rdp(history, DELTA)
    assert bound == pytest.approx(epsilon_prv(history, DELTA), rel=0.01)


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
    assert epsilon({GaussianEvent(0.1, 0.999 * multiplier): 100}, DELTA) > target


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


@pytest.mark.parametrize("noise_multiplier", [60.0, 600.0])
def test_a_small_epsilon_is_within_a_thousandth_too(noise_multiplier: float) -> None:
    """A grid of 1e-3 alone would be off by 2 % and more."""
    exact = analytic_gaussian_epsilon(noise_multiplier, DELTA)
    bound = epsilon({GaussianEvent(1.0, noise_multiplier): 1}, DELTA)
    assert exact * (1 - 1e-9) <= bound <= exact * 1.001


@pytest.mark.parametrize("delta", [0.1, 0.9])
def test_what_delta_alone_covers_costs_nothing_and_never_less(delta: float) -> None:
    history = {GaussianEvent(0.1, 1000.0): 1}
    assert epsilon(history, delta) == epsilon_rdp(history, delta) == 0


def test_a_report_shows_every_accountant_and_trusts_the_upper_bounds() -> None:
    history = {GaussianEvent(0.1, 1.0): 300}
    shown = report(history, DELTA)
    assert shown.epsilon == shown.pld == epsilon(history, DELTA)
    assert shown.rdp == epsilon_rdp(history, DELTA)
    assert shown.prv == epsilon_prv(history, DELTA)


def test_hardly_any_noise_is_priced_exactly_too() -> None:
    shown = report({GaussianEvent(1.0, 0.01): 10}, DELTA)
    exact = analytic_gaussian_epsilon(0.01 / math.sqrt(10), DELTA)
    assert exact <= shown.epsilon == shown.pld <= 1.001 * exact
    assert shown.pld < shown.rdp < 1.01 * exact
    assert math.isnan(shown.prv), "it takes long, and nobody would spend it"


@pytest.mark.parametrize("budget", [1.0, 3.0])
def test_affordable_steps_are_the_most_that_the_budget_covers(budget: float) -> None:
    before, event = {GaussianEvent(0.05, 2.0): 10}, GaussianEvent(0.1, 2.0)
    steps = affordable_steps(before, event, budget, DELTA)
    assert steps > 0
    assert epsilon(before | {event: steps}, DELTA) <= budget
    assert epsilon(before | {event: steps + 1}, DELTA) > budget
    assert affordable_steps(before | {event: steps - 1}, event, budget, DELTA) == 1


@pytest.mark.parametrize("steps", range(1, 20))
def test_a_budget_of_just_so_many_steps_affords_just_so_many(steps: int) -> None:
    event = GaussianEvent(0.1, 2.0)
    assert affordable_steps({}, event, epsilon({event: steps}, DELTA), DELTA) == steps


def test_nothing_is_affordable_once_the_budget_is_spent() -> None:
    event = GaussianEvent(0.1, 1.0)
    spent = epsilon({event: 10}, DELTA)
    assert affordable_steps({event: 10}, event, spent, DELTA) == 0
    assert affordable_steps({}, event, 0.0, DELTA) == 0


def test_affordable_steps_stop_at_a_million() -> None:
    assert affordable_steps({}, GaussianEvent(0.01, 1e5), 3.0, DELTA) == 2**20


@pytest.mark.parametrize("delta", [0.0, 1.0, 1.5, -1.0, math.nan])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    for accountant in (epsilon, epsilon_rdp, epsilon_prv, report):
        with pytest.raises(UsageError, match="δ"):
            accountant({GaussianEvent(0.1, 1.0): 1}, delta)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(UsageError, match="negative number of releases"):
        epsilon({GaussianEvent(0.1, 1.0): -1}, DELTA)


@pytest.mark.parametrize(("target", "steps"), [(0.0, 1), (-1.0, 1), (math.inf, 1), (1.0, 0)])
def test_no_noise_is_chosen_for_an_impossible_target(target: float, steps: int) -> None:
    with pytest.raises(UsageError, match="no noise"):
        calibrate_noise_multiplier(target, DELTA, 0.1, steps)


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(UsageError, match="no noise reaches"):
        calibrate_noise_multiplier(1e-9, 1e-12, 1.0, 10**6)


@pytest.mark.parametrize("multiplier", [0.05, 80.0])
def test_calibration_finds_the_smallest_noise_far_from_the_usual(multiplier: float) -> None:
    target = epsilon({GaussianEvent(0.1, multiplier): 10}, DELTA)
    found = calibrate_noise_multiplier(target, DELTA, 0.1, 10)
    assert epsilon({GaussianEvent(0.1, found): 10}, DELTA) <= target
    assert epsilon({GaussianEvent(0.1, 0.999 * found): 10}, DELTA) > target


@pytest.mark.parametrize("shares", [1, 3])
@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.25, 8)])
def test_the_integers_that_are_released_lose_no_more_than_is_accounted(
    shares: int, rate: float, steps: int
) -> None:
    """The loss of the mechanism itself, with its own masses: discrete, summed over shares, sampled.

    In one dimension and on the coarsest ring, where rounding and discreteness weigh most, the
    integers move by at most ⌊scale·C + 1⌋ = 9 when one unit is there.
    """
    this = Mechanism(1.0, 1.1, dimension=1, scale=8, shares=shares)
    reach = 14 * this.share_std
    one = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * this.share_std**2))
    mass = one / one.sum()
    for _ in range(shares - 1):
        mass = np.convolve(mass, one / one.sum())
    width = len(mass) // 2
    absent = {k: float(p) for k, p in zip(range(-width, width + 1), mass, strict=True) if p > 0}
    moved = {k + 9: p for k, p in absent.items()}
    present = {
        k: (1 - rate) * absent.get(k, 0.0) + rate * moved.get(k, 0.0) for k in absent | moved
    }
    accounted = {GaussianEvent(rate, this.effective_noise_multiplier): steps}
    exact = 0.0
    for upper, lower in ((present, absent), (absent, present)):
        loss = from_two_probability_mass_functions(
            {k: math.log(p) for k, p in lower.items() if p > 0},
            {k: math.log(p) for k, p in upper.items() if p > 0},
            pessimistic_estimate=False,
            value_discretization_interval=1e-4,
            symmetric=True,
        )
        exact = max(exact, loss.self_compose(steps).get_epsilon_for_delta(DELTA))
    assert exact <= epsilon(accounted, DELTA) <= exact * 1.25
