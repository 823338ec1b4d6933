"""Ledger, auditor and dp_accounting agree on any history, and no honest ledger is accused.

`benchmarks/accountants.py` compares thousands of histories; these are samples of them, and the cases
in which an earlier accountant was wrong.
"""

import math
import time
from pathlib import Path

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from helpers.charges import approve, make_charge
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from hortus.privacy.accounting.accountant import calibrate_noise_multiplier, epsilon, epsilon_rdp
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import read_evidence
from hortus.privacy.audit.recount import recount
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget
from hortus.runtime.errors import UsageError

Events = dict[GaussianEvent, int]


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers whose logarithms are spread evenly."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


RATES = st.one_of(powers(1e-5, 1.0).map(lambda rate: min(rate, 1.0)), st.just(1.0))
EVENTS = st.builds(GaussianEvent, RATES, powers(0.3, 30))
COUNTS = powers(1, 3e4).map(math.ceil)
HISTORIES = st.dictionaries(EVENTS, COUNTS, min_size=1, max_size=4)
DELTAS = powers(1e-12, 1e-2)


def google(events: Events, delta: float, interval: float) -> float:
    """ε by dp_accounting alone."""
    composed = None
    for event, count in events.items():
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=interval,
        ).self_compose(count)
        composed = one if composed is None else composed.compose(one)
    assert composed is not None
    return float(composed.get_epsilon_for_delta(delta))


def analytic(mu: float, delta: float) -> float:
    """ε of a Gaussian with sensitivity over noise μ (Balle and Wang 2018, theorem 8), in logarithms."""

    def excess(value: float) -> float:
        above = log_ndtr(mu / 2 - value / mu)
        below = value + log_ndtr(-mu / 2 - value / mu)
        return float(above + math.log(max(-math.expm1(below - above), 1e-300)) - math.log(delta))

    return float(brentq(excess, 0, mu**2 / 2 + 40 * mu, xtol=1e-15, rtol=1e-12))


@settings(max_examples=25, deadline=None)
@given(HISTORIES, DELTAS)
def test_ledger_and_auditor_agree_on_any_history(events: Events, delta: float) -> None:
    charged, audited = epsilon(events, delta), recount(events, delta)
    assert charged == pytest.approx(audited, rel=1e-3, abs=1e-4 * delta)
    assert charged <= epsilon_rdp(events, delta) * (1 + 1e-3) + 1e-4 * delta


@settings(max_examples=20, deadline=None)
@given(st.lists(powers(0.3, 1e4), min_size=1, max_size=3), COUNTS, powers(1e-12, 1e-3))
def test_neither_is_ever_below_what_is_known_exactly(
    multipliers: list[float], count: int, delta: float
) -> None:
    events = {GaussianEvent(1.0, multiplier): count for multiplier in multipliers}
    mu = math.sqrt(sum(n / event.noise_multiplier**2 for event, n in events.items()))
    exact = analytic(mu, delta) if mu > 3 * delta else 0.0
    for accountant in (epsilon, recount):
        assert exact * (1 - 1e-9) <= accountant(events, delta)
        if exact:
            assert accountant(events, delta) <= exact * 1.001 + 1e-4 * delta


@settings(max_examples=6, deadline=None)
@given(st.dictionaries(EVENTS, st.integers(1, 100), min_size=1, max_size=2), powers(1e-8, 1e-2))
def test_the_ledger_charges_what_dp_accounting_does(events: Events, delta: float) -> None:
    charged = epsilon(events, delta)
    if 0.02 < charged < 20:
        assert charged == pytest.approx(google(events, delta, charged / 2_000), rel=1e-3)


@pytest.mark.parametrize(
    ("rate", "noise", "releases", "delta", "cost"),
    [
        (1e-3, 0.7, 1_000, 1e-6, 0.97837),
        (5e-4, 0.8, 1_000, 1e-6, 0.21988),
        (1e-3, 0.6, 1_000, 1e-5, 1.42528),
        (0.0057, 0.57, 2, 2.6e-6, 2.10634),
        (2.2e-5, 0.52, 433, 2.2e-9, 0.87226),
        (1.3e-4, 0.91, 10_448, 7.5e-11, 0.19542),
    ],
)
def test_rare_large_losses_are_priced_as_they_are(
    rate: float, noise: float, releases: int, delta: float, cost: float
) -> None:
    """Each was overstated, up to fourfold, by a window, a grid or a rounding that was too coarse.

    Costs are dp_accounting's on fine grids, and for the last the auditor's on finer ones.
    """
    events = {GaussianEvent(rate, noise): releases}
    assert epsilon(events, delta) == pytest.approx(cost, rel=5e-4)
    assert recount(events, delta) == pytest.approx(cost, rel=5e-4)


@pytest.mark.parametrize("delta", [1e-3, 1e-8, 1e-12])
def test_a_hundred_thousand_releases_lose_no_digit_to_rounding(delta: float) -> None:
    """δ = 10⁻¹² is far below what an untilted sum of 64-bit floats errs by."""
    events = {GaussianEvent(1.0, 300.0): 60_000, GaussianEvent(1.0, 200.0): 40_000}
    exact = analytic(math.sqrt(60_000 / 300**2 + 40_000 / 200**2), delta)
    for accountant in (epsilon, recount):
        assert exact <= accountant(events, delta) <= exact * 1.0005


# Small and large, sampled and unsampled targets.
PLANS = [
    (1.0, 1e-6, 1e-3, 1_000),
    (2.0, 1e-6, 1e-2, 1_000),
    (8.0, 1e-5, 0.25, 24),
    (0.02, 1e-7, 0.1, 30),
    (0.001, 1e-5, 0.5, 2),
    (15.0, 1e-7, 1.0, 3),
]


@pytest.mark.parametrize(("target", "delta", "rate", "steps"), PLANS)
def test_the_noise_chosen_is_enough_and_a_thousandth_less_is_not(
    target: float, delta: float, rate: float, steps: int
) -> None:
    multiplier = calibrate_noise_multiplier(target, delta, rate, steps)
    enough, less = (
        google({GaussianEvent(rate, part * multiplier): steps}, delta, target / 8_000)
        for part in (1.0, 0.999)
    )
    assert enough <= target * (1 + 1e-6)
    assert less > target


@pytest.mark.parametrize("target", [1e-4, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize(
    ("rate", "steps", "delta"),
    [(0.5, 2, 1e-5), (1.0, 100_000, 1e-12), (1e-3, 100_000, 1e-8), (0.01, 3_000, 1e-6)],
)
def test_noise_is_chosen_within_two_seconds_whatever_the_target(
    target: float, rate: float, steps: int, delta: float
) -> None:
    start = time.process_time()
    try:
        multiplier = calibrate_noise_multiplier(target, delta, rate, steps)
    except UsageError as error:
        assert "no noise reaches" in str(error)  # noqa: PT017 - a refusal is an answer too
        assert target < 1e-3
        return
    assert time.process_time() - start < 2
    assert epsilon({GaussianEvent(rate, multiplier): steps}, delta) <= target
    assert recount({GaussianEvent(rate, 0.999 * multiplier): steps}, delta) > target * 0.9999


def test_rare_large_losses_far_beyond_epsilon_do_not_coarsen_the_grid() -> None:
    """Both stopped refining at a window of 32 that held them, 2.4 % and 6.8 % too high.

    The cost is dp_accounting's limit as its grid becomes finer.
    """
    events = {GaussianEvent(1.3609e-5, 0.41014): 9_596}
    for accountant in (epsilon, recount):
        assert accountant(events, 6.3437e-3) == pytest.approx(0.0024712, rel=2e-3)


def test_a_delta_that_covers_being_sampled_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="published"):
        calibrate_noise_multiplier(1.0, 1e-5, 1e-9, 1_000)


@pytest.mark.parametrize(
    ("rate", "noise", "delta"), [(1e-3, 0.7, 1e-6), (5e-4, 0.8, 1e-6), (1e-3, 0.6, 1e-5)]
)
def test_an_honest_ledger_is_not_accused(
    tmp_path: Path, rate: float, noise: float, delta: float
) -> None:
    site, server = Identity.generate("north"), Identity.generate("server")
    roster = Roster({"north": site.public_key_bytes}, server.public_key_bytes)
    ledger = approve(Ledger.open(tmp_path / "ledger.sqlite", site, time.time))
    for step in range(10):
        charge = make_charge(
            step=step, sampling_rate=rate, noise_multiplier=noise, delta=delta, releases=100
        )
        ledger.charge(charge, Budget(epsilon=100, delta=delta))
    ledger.close()
    evidence = read_evidence("north", tmp_path / "ledger.sqlite", roster, {})
    found = audit(evidence, roster)
    assert found.first_broken is None
