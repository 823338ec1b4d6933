"""The auditor's accountant: privacy loss distributions by numpy alone, apart from the ledger's.

A release is a Poisson-subsampled Gaussian: P = (1 − q)·N(0, σ²) + q·N(1, σ²) against Q = N(0, σ²),
both ways round. Its privacy loss is put on a grid of width h so that each cell keeps its mass under
P and under Q: at the two ends of the cell, which dominates what was inside (Doroshenko et al. 2022,
"connect the dots"). Sums of losses are products of Fourier transforms. Everything cut off is counted
as a certain breach: the tails of one release, and by a Chernoff bound the sum's tail beyond the
window, whose wrapped part could otherwise lower δ. So the result is an upper bound on ε, up to
rounding, for which δ is lowered too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from hortus.privacy.events import GaussianEvent

Array = NDArray[np.float64]
Releases = tuple[tuple[GaussianEvent, int], ...]

# Share of δ that is given away to each thing that is cut off.
_SHARE = 1e-5
# Width of a cell over the root mean square deviation of one release's loss: n cells too wide add
# n·h²/6 to the variance of the sum, a relative 2·10⁻⁴ of it.
_CELL = 0.035
_MOST_CELLS = 2**21
_MOST_CELLS_OF_ONE = 2**19
_EPSILON = 2.0**-52
# Orders at which tails are bounded.
_ORDERS = np.geomspace(0.05, 2000, 90)


def recount(history: Mapping[GaussianEvent, int], delta: float) -> float:
    """Returns an upper bound on ε(δ) of a history, for adding and for removing a unit.

    Exact to about 0.1 % for δ ≥ 10⁻⁸; looser for a smaller δ and for ε far above 100.
    """
    releases = tuple(sorted((event, n) for event, n in history.items() if n))
    if not releases:
        return 0.0
    return max(_epsilon(releases, delta, removing=removing) for removing in (True, False))


@dataclass(frozen=True, slots=True)
class _Loss:
    """One release's privacy loss on the grid of multiples of a cell's width.

    Attributes:
        first: Index of the first cell: `mass[i]` is at (first + i)·h.
        mass: Probabilities under the distribution that the loss is drawn from.
        breach: Probability of a loss beyond the grid, counted as infinite.
        growth: log E exp(λ·loss) for λ in `_ORDERS`.
        decline: The same for −λ.
    """

    first: int
    mass: Array
    breach: float
    growth: Array
    decline: Array


def _epsilon(releases: Releases, delta: float, *, removing: bool) -> float:
    total = sum(n for _, n in releases)
    variance = sum(n * _variance(event, removing=removing) for event, n in releases)
    # On a ladder, so that a growing history keeps its cells.
    width = 2.0 ** (math.floor(4 * math.log2(_CELL * math.sqrt(variance / total))) / 4)
    tail = _SHARE * delta
    single = 2.0 ** math.floor(math.log2(tail / total))
    # A loss that hardly varies needs no finer grid than its range.
    longest = max(np.ptp(_ends(event, single)) for event, _ in releases)
    width = max(width, 2.0 ** math.ceil(math.log2(longest / _MOST_CELLS_OF_ONE)))
    while True:
        losses = [
            (_discretise(event, width, single, removing=removing), n) for event, n in releases
        ]
        top, bottom = _window(losses, tail)
        cells = math.ceil((top - bottom) / width) + 2
        if cells <= _MOST_CELLS:
            break
        width *= 2
    size = 1 << (cells - 1).bit_length()
    spectrum = np.ones(size // 2 + 1, np.complex128)
    for event, n in releases:
        spectrum *= _transform(event, width, single, size, removing=removing) ** n
    sums = np.fft.irfft(spectrum, size)
    first = math.floor(bottom / width)
    values = width * np.arange(first, first + size)
    mass = np.maximum(np.roll(sums, -(first % size)), 0.0)
    breach = sum(n * loss.breach for loss, n in losses) + tail
    # Σ|e| ≤ √N·‖e‖₂: the transforms err by ε·log₂ N of the norm, n-fold powers by ε·n of it, and
    # the mass lies on a few tenths of the window at least.
    rounding = _EPSILON * (10 * total + 2 * math.sqrt(size) * math.log2(size))
    left = delta - breach - rounding
    return _solve(values, mass, left) if left > 0 else math.inf


def _solve(values: Array, mass: Array, delta: float) -> float:
    """Returns the ε at which E max(0, 1 − exp(ε − loss)) comes down to δ."""
    above = np.cumsum(mass[::-1])[::-1]
    # Scaled by the largest loss, so that nothing overflows.
    weighted = np.cumsum((mass * np.exp(-(values - values[0])))[::-1])[::-1]
    at = above - np.exp(np.minimum(values - values[0], 700.0)) * weighted
    index = int(np.argmax(at <= delta))
    if at[index] > delta:
        return math.inf
    if above[index] <= delta or weighted[index] <= 0:
        return max(0.0, float(values[index]))
    epsilon = values[0] + math.log((above[index] - delta) / weighted[index])
    return max(0.0, float(min(epsilon, values[index])))


@lru_cache(maxsize=512)
def _transform(
    event: GaussianEvent, width: float, tail: float, size: int, *, removing: bool
) -> NDArray[np.complex128]:
    loss = _discretise(event, width, tail, removing=removing)
    wrapped = np.zeros(size)
    np.add.at(wrapped, (loss.first + np.arange(len(loss.mass))) % size, loss.mass)
    return np.fft.rfft(wrapped)


@lru_cache(maxsize=2048)
def _variance(event: GaussianEvent, *, removing: bool) -> float:
    """Returns the variance of one release's loss, by quadrature."""
    sigma, rate = event.noise_multiplier, event.sampling_rate
    x = np.linspace(-9 * sigma, 1 + 9 * sigma, 4001)
    without = np.exp(-0.5 * (x / sigma) ** 2)
    with_ = np.exp(-0.5 * ((x - 1) / sigma) ** 2)
    loss = _loss_at(x, event)
    weight = (1 - rate) * without + rate * with_ if removing else without
    weight /= weight.sum()
    mean = float(weight @ loss)
    return max(float(weight @ (loss - mean) ** 2), 1e-300)


def _loss_at(x: Array, event: GaussianEvent) -> Array:
    """Returns log P/Q at outcomes x."""
    exponent = (2 * x - 1) / (2 * event.noise_multiplier**2)
    if event.sampling_rate == 1:
        return exponent
    return np.logaddexp(math.log1p(-event.sampling_rate), math.log(event.sampling_rate) + exponent)


def _outcome_at(loss: Array, event: GaussianEvent) -> Array:
    """Returns the x at which log P/Q takes a value; −∞ for values below all that it takes."""
    sigma, rate = event.noise_multiplier, event.sampling_rate
    if rate == 1:
        return sigma**2 * loss + 0.5
    floor = math.log1p(-rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = loss + np.log(-np.expm1(np.minimum(floor - loss, 0.0))) - math.log(rate)
    return sigma**2 * exponent + 0.5


@lru_cache(maxsize=512)
def _discretise(event: GaussianEvent, width: float, tail: float, *, removing: bool) -> _Loss:
    """Returns the loss of one release.

    Args:
        event: The release.
        width: Of a cell.
        tail: Probability beyond each end, under N(0, σ²) and N(1, σ²), that may be cut off.
        removing: Whether the loss is log P/Q under P; else log Q/P under Q.
    """
    sigma, rate = event.noise_multiplier, event.sampling_rate
    ends = _ends(event, tail)
    low, high = ends if removing else -ends[::-1]
    first, last = math.floor(low / width), math.ceil(high / width)
    edges = width * np.arange(first, last + 1)
    x = _outcome_at(edges if removing else -edges, event)
    # Cell probabilities, each from the tail in which it is small.
    plain = _between(x / sigma, falling=not removing)
    shifted = _between((x - 1) / sigma, falling=not removing)
    mixed = (1 - rate) * plain + rate * shifted
    own, other = (mixed, plain) if removing else (plain, mixed)
    # own = lower + upper and other = lower·exp(−a) + upper·exp(−b), for a cell from a to b.
    with np.errstate(divide="ignore"):
        upper = (own - np.exp(np.log(other) + edges[:-1])) / -math.expm1(-width)
    upper = np.clip(upper, 0.0, own)
    mass = np.zeros(len(edges))
    mass[:-1] += own - upper
    mass[1:] += upper
    end_plain, end_shifted = _beyond(x, sigma, removing=removing)
    beyond = (1 - rate) * end_plain[1] + rate * end_shifted[1] if removing else end_plain[1]
    below = (1 - rate) * end_plain[0] + rate * end_shifted[0] if removing else end_plain[0]
    mass[0] += below
    return _Loss(first, mass, beyond, *_moments(edges, mass))


def _ends(event: GaussianEvent, tail: float) -> Array:
    """Returns log P/Q at the outcomes beyond which lies at most `tail`, on each side."""
    reach = event.noise_multiplier * math.sqrt(-2 * math.log(tail))
    return _loss_at(np.array([-reach, 1 + reach]), event)


def _between(z: Array, *, falling: bool) -> Array:
    """Returns Φ's probabilities between neighbours of a sorted array."""
    if falling:
        z = z[::-1]
    left = z[:-1] > 0
    probabilities: Array = np.where(left, ndtr(-z[:-1]) - ndtr(-z[1:]), ndtr(z[1:]) - ndtr(z[:-1]))
    return probabilities[::-1] if falling else probabilities


def _beyond(
    x: Array, sigma: float, *, removing: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns what lies below and above the grid of losses, under N(0, σ²) and N(1, σ²)."""

    def ends(mean: float) -> tuple[float, float]:
        z = (x[[0, -1]] - mean) / sigma
        below, above = (z[0], -z[1]) if removing else (-z[0], z[1])
        return float(ndtr(below)), float(ndtr(above))

    return ends(0.0), ends(1.0)


def _moments(values: Array, mass: Array) -> tuple[Array, Array]:
    with np.errstate(divide="ignore"):
        log_mass = np.log(mass)

    def moment(order: float) -> float:
        exponents = log_mass + order * values
        peak = exponents.max()
        return float(peak + np.log(np.exp(exponents - peak).sum()))

    growth = np.array([moment(order) for order in _ORDERS])
    decline = np.array([moment(-order) for order in _ORDERS])
    return growth, decline


def _window(losses: list[tuple[_Loss, int]], tail: float) -> tuple[float, float]:
    """Returns bounds that the sum passes with probability at most `tail` each (Chernoff)."""
    growth = sum((n * loss.growth for loss, n in losses), np.zeros(len(_ORDERS)))
    decline = sum((n * loss.decline for loss, n in losses), np.zeros(len(_ORDERS)))
    top = float(np.min((growth - math.log(tail)) / _ORDERS))
    bottom = float(-np.min((decline - math.log(tail)) / _ORDERS))
    return top, bottom
