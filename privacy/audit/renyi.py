"""The auditor's Rényi bound: quick, never below ε, and independent of the ledger's."""

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from hortus.privacy.accounting.events import GaussianEvent

Array = NDArray[np.float64]

_FRACTIONAL = np.array([1 + tenth / 10 for tenth in range(1, 100) if tenth % 10])
_WHOLE = np.array([*range(2, 64), 80, 128, 256, 512])
ORDERS: Array = np.concatenate([_FRACTIONAL, _WHOLE]).astype(np.float64)

# ε = min over α of D_α + (−log δ − log α)/(α − 1) + log(1 − 1/α), by Balle et al. 2020, theorem 21.
_PER_ORDER = np.log1p(-1 / ORDERS) - np.log(ORDERS) / (ORDERS - 1)
# Points of the integration over a deviation of the noise; the trapezoid rule errs by e^−100 at 10.
_POINTS = 40
_REACH = 12.0


def renyi_epsilon(history: Mapping[GaussianEvent, int], delta: float) -> float:
    """Returns a bound on ε(δ) of a history, for adding and for removing a unit."""
    total = np.zeros(len(ORDERS))
    for event, count in history.items():
        total += count * divergences(event)
    return from_divergences(total, delta)


def from_divergences(total: Array, delta: float) -> float:
    """Converts Rényi divergences at `ORDERS` to ε at δ."""
    return max(0.0, float((total + _conversion(delta)).min()))


@lru_cache(maxsize=64)
def _conversion(delta: float) -> Array:
    return _PER_ORDER - math.log(delta) / (ORDERS - 1)


@lru_cache(maxsize=1024)
def divergences(event: GaussianEvent) -> Array:
    """Returns the Rényi divergences of one release at `ORDERS`; infinite where they overflow.

    Of P = (1 − q)·N(0, σ²) + q·N(1, σ²) from Q = N(0, σ²), which is the larger of the two ways
    (Mironov, Talwar and Zhang 2019, theorem 5): log E_Q (P/Q)^α / (α − 1). Whole orders have a sum in
    closed form (section 3.3 there), the others are integrated.
    """
    rate, sigma = event.sampling_rate, event.noise_multiplier
    if rate == 1:
        values = ORDERS / (2 * sigma**2)
    else:
        whole = [_whole(int(order), rate, sigma) for order in _WHOLE]
        values = np.concatenate([_fractional(rate, sigma), whole]) / (ORDERS - 1)
    return np.where(np.isnan(values), math.inf, np.maximum(values, 0.0))


def _whole(order: int, rate: float, sigma: float) -> float:
    """Log Σ_k C(α, k)·(1 − q)^(α − k)·q^k·exp(k·(k − 1)/(2σ²))."""
    k = np.arange(order + 1)
    binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = binomial + (order - k) * math.log1p(-rate) + k * math.log(rate)
    return float(np.logaddexp.reduce(terms + k * (k - 1) / (2 * sigma**2)))


def _fractional(rate: float, sigma: float) -> Array:
    """Log ∫ N(x; 0, σ²)·(1 − q + q·exp((2x − 1)/(2σ²)))^α dx, by the trapezoid rule."""
    # The integrand's farthest peak is at α.
    low, high = -_REACH * sigma, _FRACTIONAL[-1] + _REACH * sigma
    x = np.linspace(low, high, 2 + math.ceil(_POINTS * (high - low) / sigma))
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma**2))
    density = -0.5 * (x / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
    width = math.log(x[1] - x[0])
    found = []
    for order in _FRACTIONAL:
        exponents = density + order * loss
        peak = exponents.max()
        found.append(peak + math.log(np.exp(exponents - peak).sum()) + width)
    return np.array(found)
