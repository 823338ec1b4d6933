"""How well any test can tell whether a unit is in the data: what ε and δ mean for an attacker."""

import math
from functools import lru_cache

import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from hortus.privacy.accounting.events import GaussianEvent, History
from hortus.privacy.audit.renyi import renyi_epsilon

_INTERVAL = 1e-3  # width of a privacy loss cell
_EXP_LIMIT = 700.0  # e to a larger power is no float64
_LEAST_DELTA = 1e-12  # where a curve of (ε, δ) is followed to
_POINTS = 400
_WIDEST = 200.0  # a loss distribution wider than this takes long, and bounds nothing


def true_positive_bound(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """Returns the largest share of present units that a test may find, whatever the test.

    Under (ε, δ)-differential privacy, a test that takes absent units for present with probability α
    finds present ones with probability at most min(e^ε·α + δ, 1 − e^−ε·(1 − δ − α)) (Kairouz, Oh
    and Viswanath 2015, Theorem 2.1).

    Args:
        epsilon: ε, perhaps infinite.
        delta: δ in [0, 1].
        false_positive_rate: α in [0, 1].
    """
    if epsilon > _EXP_LIMIT:
        return 1.0
    above = math.exp(epsilon) * false_positive_rate + delta
    below = 1 - math.exp(-epsilon) * (1 - delta - false_positive_rate)
    return min(1.0, above, below)


def true_positive_bound_of(history: History, false_positive_rate: float) -> float:
    """Returns the same bound from a history's whole curve of (ε, δ), not from one point of it."""
    return min(
        true_positive_bound(epsilon, delta, false_positive_rate)
        for epsilon, delta in _curve(tuple(sorted(item for item in history.items() if item[1])))
    )


def gaussian_true_positive(epsilon: float, delta: float, false_positive_rate: float) -> float:
    """Returns what the best test finds of one Gaussian release that is exactly (ε, δ)-private.

    It has the sensitivity μ, in standard deviations, with δ = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) (Balle and
    Wang 2018, Theorem 8), and the test finds Φ(Φ⁻¹(α) + μ) (Dong, Roth and Su 2022).

    Args:
        epsilon: ε, positive and finite.
        delta: δ in (0, 1).
        false_positive_rate: α in (0, 1).
    """

    def excess(mu: float) -> float:
        # The second term without overflow: e^ε times a normal tail.
        tail = math.exp(epsilon + float(log_ndtr(-mu / 2 - epsilon / mu)))
        return float(ndtr(mu / 2 - epsilon / mu)) - tail - delta

    mu = float(brentq(excess, 1e-6, 2 * math.sqrt(2 * epsilon) + 20))
    return float(ndtr(ndtri(false_positive_rate) + mu))


@lru_cache(maxsize=64)
def _curve(releases: tuple[tuple[GaussianEvent, int], ...]) -> tuple[tuple[float, float], ...]:
    """Points (ε, δ) that releases have together; (∞, 0) alone where their loss is too wide."""
    end = renyi_epsilon(dict(releases), _LEAST_DELTA)
    if end > _WIDEST:
        return ((math.inf, 0.0),)
    grid = np.linspace(0, end, _POINTS)
    deltas = _compose(releases).get_delta_for_epsilon(grid) if releases else 0 * grid
    return tuple(zip(map(float, grid), map(float, deltas), strict=True))


def _compose(releases: tuple[tuple[GaussianEvent, int], ...]) -> pld.PrivacyLossDistribution:
    (first, count), *others = releases
    composed = _distribution(first).self_compose(count)
    for event, more in others:
        composed = composed.compose(_distribution(event).self_compose(more))
    return composed


@lru_cache(maxsize=256)
def _distribution(event: GaussianEvent) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        event.noise_multiplier,
        sampling_prob=event.sampling_rate,
        value_discretization_interval=_INTERVAL,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
