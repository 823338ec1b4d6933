"""Two accountants that share no code agree, with the truth where it is known, and with Google's."""

import math
import random

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.optimize import brentq
from scipy.stats import norm

from hortus.privacy.accounting.accountant import epsilon, epsilon_rdp
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.recount import recount

DELTA = 1e-5
ACCOUNTANTS = [epsilon, recount]


def analytic(mu: float, delta: float) -> float:
    """ε of a Gaussian mechanism with sensitivity over noise μ (Balle and Wang 2018, theorem 8)."""

    def excess(e: float) -> float:
        below = math.exp(e + norm.logcdf(-mu / 2 - e / mu))
        return float(norm.cdf(mu / 2 - e / mu) - below - delta)

    return float(brentq(excess, 0, mu**2 / 2 + 12 * mu, xtol=1e-12))


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("noise", "releases"),
    [(1.0, 1), (0.5, 1), (4.0, 10), (40.0, 1), (100.0, 10_000), (200.0, 100_000)],
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_a_sum_of_gaussians_costs_what_one_gaussian_does(
    accountant: object, noise: float, releases: int, delta: float
) -> None:
    exact = analytic(math.sqrt(releases) / noise, delta)
    found = accountant({GaussianEvent(1.0, noise): releases}, delta)  # type: ignore[operator]
    assert exact * (1 - 1e-7) <= found <= exact * (1.0005 if delta > 1e-8 else 1.002)


def history(seed: int) -> dict[GaussianEvent, int]:
    """A random history of several plans, noises and rates, metrics and trials among them."""
    draw = random.Random(seed)
    events: dict[GaussianEvent, int] = {}
    for _ in range(draw.randint(1, 5)):
        rate = draw.choice([1.0, 0.3, 0.1, 0.03, 0.01])
        noise = draw.uniform(0.8, 3) * (1 + 30 * rate)
        events[GaussianEvent(rate, noise)] = draw.choice([1, 3, 10, 100, 1000])
    return events


@pytest.mark.parametrize("seed", range(8))
def test_the_accountants_agree_on_histories_of_many_kinds(seed: int) -> None:
    events = history(seed)
    charged, audited = epsilon(events, DELTA), recount(events, DELTA)
    assert charged == pytest.approx(audited, rel=1e-3)
    assert max(charged, audited) <= epsilon_rdp(events, DELTA)


@pytest.mark.parametrize("seed", [1, 4])
def test_neither_accountant_is_below_googles_lower_estimate(seed: int) -> None:
    events = history(seed)
    bounds = {}
    for pessimistic in (False, True):
        composed = None
        for event, count in events.items():
            one = pld.from_gaussian_mechanism(
                event.noise_multiplier,
                sampling_prob=event.sampling_rate,
                value_discretization_interval=1e-3,
                use_connect_dots=pessimistic,
                pessimistic_estimate=pessimistic,
            ).self_compose(count)
            composed = one if composed is None else composed.compose(one)
        assert composed is not None
        bounds[pessimistic] = composed.get_epsilon_for_delta(DELTA)
    for accountant in (epsilon, recount):
        assert bounds[False] <= accountant(events, DELTA) <= bounds[True] * (1 + 1e-3)


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_more_releases_never_cost_less(rate: float) -> None:
    event, other = GaussianEvent(rate, 3.0 + 20 * rate), GaussianEvent(1.0, 30.0)
    costs = [recount({event: n, other: 2}, DELTA) for n in range(1, 40)]
    assert np.all(np.diff(costs) > 0)


def test_both_directions_are_priced() -> None:
    """At q = 0.9 and little noise, removing and adding differ by much more than rounding."""
    both = pld.from_gaussian_mechanism(0.6, sampling_prob=0.9)
    ways = [pmf.get_epsilon_for_delta(DELTA) for pmf in (both._pmf_remove, both._pmf_add)]
    assert max(ways) > 1.001 * min(ways)
    assert recount({GaussianEvent(0.9, 0.6): 1}, DELTA) == pytest.approx(max(ways), rel=1e-3)


def test_extremes_are_no_claim_of_privacy_and_no_error() -> None:
    assert recount({}, DELTA) == 0.0
    assert recount({GaussianEvent(1.0, 1e-3): 1}, DELTA) > 1e5
    assert recount({GaussianEvent(0.5, 1e6): 1}, DELTA) == 0.0
    assert recount({GaussianEvent(1e-6, 5.0): 1}, DELTA) == 0.0
