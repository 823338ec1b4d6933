"""The privacy loss of one release, as the ledger's accountant sees it: its cumulants, its masses.

A release is a Poisson-subsampled Gaussian: P = (1 − q)·N(0, σ²) + q·N(1, σ²) with the unit, and
Q = N(0, σ²) without it. Removing a unit loses L = log P/Q, drawn from P; adding one loses −L, drawn
from Q. At the outcome x, L = log(1 − q + q·exp t) with t = (2x − 1)/(2σ²), which rises with x.
"""

import math
from dataclasses import astuple, dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from hortus.privacy.accounting.events import GaussianEvent

Array: TypeAlias = NDArray[np.float64]

# Orders θ > 0 of E exp(θ·loss). Rényi divergences of order α = 1 + θ are K(θ)/θ.
ORDERS: Array = 2.0 ** (np.arange(-40, 97) / 4)
# Deviations of the noise that cumulants are integrated over: what is beyond weighs e⁻⁸⁰⁰.
_REACH = 40
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
# L bends within some σ² of one outcome.
_BEND = np.arange(-20, 21)


class Way(Enum):
    """The two sides of the neighbouring relation."""

    REMOVING = "removing"
    ADDING = "adding"


@dataclass(frozen=True, slots=True)
class Cumulants:
    """Moments of a loss under the law tilted by exp(θ·loss), for each θ of `ORDERS`.

    Attributes:
        log_moment: K(θ) = log E exp(θ·loss).
        mean: K′(θ), the tilted mean.
        variance: K″(θ), the tilted variance.
        magnitude: The tilted mean of |loss|.
    """

    log_moment: Array
    mean: Array
    variance: Array
    magnitude: Array

    def times(self, count: int) -> "Cumulants":
        """Returns those of this many releases together."""
        return Cumulants(*(count * values for values in astuple(self)))

    def __add__(self, other: "Cumulants") -> "Cumulants":
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Cumulants(*(one + more for one, more in pairs))


@lru_cache(maxsize=4096)
def cumulants(event: GaussianEvent, way: Way) -> Cumulants:
    """Returns the cumulants of one release, to about ten digits, by Gauss-Legendre quadrature."""
    x, log_weight = _quadrature(event)
    loss = _loss(x, event)
    log_weight = log_weight - 0.5 * (x / event.noise_multiplier) ** 2
    if way is Way.REMOVING:
        log_weight += loss
    else:
        loss = -loss
    exponents = log_weight + np.multiply.outer(np.concatenate([[0.0], ORDERS]), loss)
    peaks = exponents.max(axis=1, keepdims=True)
    weights = np.exp(exponents - peaks)
    sums = weights.sum(axis=1)
    log_moments = peaks[:, 0] + np.log(sums)
    weights = weights[1:] / sums[1:, None]
    mean = weights @ loss
    variance = np.einsum("ij,ij->i", weights, (loss - mean[:, None]) ** 2)
    return Cumulants(log_moments[1:] - log_moments[0], mean, variance, weights @ np.abs(loss))


def _quadrature(event: GaussianEvent) -> tuple[Array, Array]:
    """Returns outcomes, and the logarithms of their weights in an integral over all outcomes."""
    rate, sigma = event.sampling_rate, event.noise_multiplier
    low, high = -_REACH * sigma, 1 + _REACH * sigma
    edges = np.linspace(low, high, 2 * _REACH + 1 + math.ceil(1 / sigma))
    if rate < 1:
        bend = 0.5 + sigma**2 * (math.log1p(-rate) - math.log(rate))
        extra = bend + sigma**2 * _BEND
        edges = np.union1d(edges, extra[(low < extra) & (extra < high)])
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (1 + _NODES)
    with np.errstate(divide="ignore"):
        return x.ravel(), np.log(half * _WEIGHTS).ravel()


def _loss(x: Array, event: GaussianEvent) -> Array:
    """Returns L at outcomes."""
    rate = event.sampling_rate
    t = (2 * x - 1) / (2 * event.noise_multiplier**2)
    if rate == 1:
        return t
    # Near 0 the first form keeps all digits, far from it the second does not overflow.
    near = np.log1p(rate * np.expm1(np.minimum(t, 1.0)))
    return np.where(t < 1, near, np.logaddexp(math.log1p(-rate), math.log(rate) + t))


def _outcome(loss: Array, event: GaussianEvent) -> Array:
    """Returns the outcome at which L takes a value; −∞ for a value below all."""
    rate = event.sampling_rate
    t = loss
    if rate < 1:
        with np.errstate(divide="ignore"):
            near = np.log1p(np.maximum(np.expm1(np.minimum(loss, 1.0)) / rate, -1.0))
            far = loss - math.log(rate) + np.log1p(-(1 - rate) * np.exp(-np.maximum(loss, 1.0)))
        t = np.where(loss < 1, near, far)
    return event.noise_multiplier**2 * t + 0.5


@dataclass(frozen=True, slots=True)
class Grid:
    """A loss on the multiples of a width, no smaller than the true one.

    Attributes:
        first: `log_mass[i]` is at (first + i) widths.
        log_mass: Logarithms of probabilities.
        breach: Probability of a loss beyond the grid, which counts as infinite.
    """

    first: int
    log_mass: Array
    breach: float


@lru_cache(maxsize=64)
def on_grid(event: GaussianEvent, way: Way, width: float, reach: tuple[int, int]) -> Grid:
    """Returns the loss of one release on a grid, rounded up by connecting the dots.

    The mass of a cell goes to its two ends, so divided that both the law that the loss is drawn
    from and the other law keep what they have in the cell: the least upper bound on the grid
    (Doroshenko et al. 2022). A loss below the grid counts as its lowest value.

    Args:
        event: The release.
        way: Which of the two losses.
        width: Of a cell.
        reach: Deviations of the noise that the grid covers, below 0 and above 1.
    """
    rate, sigma = event.sampling_rate, event.noise_multiplier
    removing = way is Way.REMOVING
    ends = _loss(np.array([-reach[0] * sigma, 1 + reach[1] * sigma]), event)
    low, high = ends if removing else -ends[::-1]
    first = math.floor(low / width)
    edges = width * np.arange(first, math.ceil(high / width) + 1)
    x = _outcome(edges if removing else -edges, event)
    without, with_ = _cells(x / sigma), _cells((x - 1) / sigma)
    # What exceeds the other law at the end of smaller loss, a: ∫ P − e^a·Q, or ∫ Q − e^a·P.
    low_ends = edges[:-1]
    if removing:
        own = (1 - rate) * without + rate * with_
        near = (np.expm1(np.minimum(low_ends, 1.0)) + rate) * without
        far = _times_exp(without, low_ends) - (1 - rate) * without
        excess = rate * with_ - np.where(low_ends < 1, near, far)
    else:
        own = without
        excess = without - _times_exp((1 - rate) * without + rate * with_, low_ends)
    upper = np.clip(excess / -math.expm1(-width), 0.0, own)
    mass = np.zeros(len(edges))
    mass[:-1] = own - upper
    mass[1:] += upper
    sign = 1 if removing else -1
    outer = sign * np.array([x[0], -x[-1]])
    beyond = ndtr(outer / sigma)
    if removing:
        beyond = (1 - rate) * beyond + rate * ndtr((outer - [1, -1]) / sigma)
    mass[0] += beyond[0]
    with np.errstate(divide="ignore"):
        return Grid(first, np.log(mass), float(beyond[1]))


def _times_exp(probability: Array, exponent: Array) -> Array:
    """Returns p·e^x, where e^x may overflow and p be 0."""
    with np.errstate(divide="ignore"):
        product: Array = np.exp(exponent + np.log(probability))
    return product


def _cells(z: Array) -> Array:
    """Returns normal probabilities between neighbours of a sorted array, rising or falling."""
    one, other = z[:-1], z[1:]
    right = np.minimum(one, other) > 0
    # Each from the tail in which it is small.
    left = np.abs(ndtr(other) - ndtr(one))
    probability: Array = np.where(right, np.abs(ndtr(-one) - ndtr(-other)), left)
    return probability
