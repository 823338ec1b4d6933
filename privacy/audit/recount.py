"""The auditor's accountant: privacy loss distributions with numpy alone, independent of the ledger's.

A release is a Poisson-subsampled Gaussian: P = (1 − q)·N(0, σ²) + q·N(1, σ²) against Q = N(0, σ²),
both ways round. Its privacy loss is put on a grid of width h so that each cell keeps its mass under
P and under Q: at the two ends of the cell, which dominates what was inside (Doroshenko et al. 2022,
"connect the dots"). Laws are weighted by exp(θ·loss), so that the sum lies about ε and float64's
errors are small beside any δ, and composed by Fourier transforms. Everything cut off is counted as a
certain breach, and what wraps round a window comes on top, so each grid gives an upper bound. Grids
are refined until ε stays.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.optimize import brentq
from scipy.special import ndtr

from hortus.privacy.accounting.events import GaussianEvent

Array = NDArray[np.float64]
Releases = tuple[tuple[GaussianEvent, int], ...]

# Share of δ for losses beyond one release's grid, and for sums beyond the window.
_SHARE = 1e-6
# Probability, under the tilted law and beside what counts there, of a sum outside the window.
_OUTSIDE = math.log(1e-10)
# ε is known when a grid four times finer moves it by less than this share of it, or of δ.
_MOVE = 8e-4
_OF_DELTA = 0.05
_REFINED = 4
_MOST_CELLS = 2**22
_MOST_CELLS_OF_ONE = 2**21
_MOST_ROUNDING = 1e-5  # of δ; where 64-bit floats may err by more, longer ones are taken
_LEAST_LOG = -60.0  # e⁻⁶⁰ is far below the rounding of a transform
# Tilts to choose from, and distances from a tilt, over it, at which the law's tails are bounded.
_TILTS = np.geomspace(1e-3, 3e7, 150)
_STEPS_DOWN = 6
_DISTANCES = (0.06, 0.12, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 12.0, 40.0)


def recount(history: Mapping[GaussianEvent, int], delta: float) -> float:
    """Returns an upper bound on ε(δ) of a history, for adding and for removing a unit.

    Above the truth by some 0.03 % of it at most, or 10⁻⁵·δ, up to 10⁷ releases; looser beyond.
    """
    releases = tuple(sorted((event, n) for event, n in history.items() if n))
    if not releases:
        return 0.0
    found = _epsilon(releases, delta, 0.0, removing=True)
    if all(event.sampling_rate == 1 for event, _ in releases):
        return found
    return max(found, _epsilon(releases, delta, found, removing=False))


def _epsilon(releases: Releases, delta: float, least: float, *, removing: bool) -> float:
    """Returns ε of one way, or `least` if that is more."""
    total = sum(n for _, n in releases)
    parts = [(n, *_quadrature(event, removing=removing)) for event, n in releases]
    # Balle et al. 2020, theorem 21: the best tilt of this bound is near the best one for the sum.
    shape = _TILTS * np.log(_TILTS) - (1 + _TILTS) * np.log1p(_TILTS)
    bounds = (sum(n * log_moment for n, log_moment, _ in parts) + shape - math.log(delta)) / _TILTS
    best = int(np.argmin(bounds))
    if bounds[best] <= least:
        return least
    tilt, outside = float(_TILTS[best]), _OUTSIDE + float(shape[best])
    others = [k for k in range(best - _STEPS_DOWN, best - 5 * _STEPS_DOWN, -_STEPS_DOWN) if k >= 0]
    single = 2.0 ** math.floor(math.log2(_SHARE * delta / total))
    # A cell adds h²/12 to a loss on average, and not more than |loss|·h/2 since 0 is on the grid.
    allowed = 0.6 * _MOVE * float(bounds[best]) / (1 + tilt)
    sizes = sum(n * float(size[best]) for n, _, size in parts)
    width = 2.0 ** math.floor(math.log2(max(math.sqrt(12 * allowed / total), 2 * allowed / sizes)))
    before, found = math.inf, math.inf
    while True:
        sums = _Sums(releases, delta, tilt, width, single, removing=removing)
        bottom, top = sums.window(outside)
        cells = math.ceil((top - bottom) / width) + 2
        if cells > _MOST_CELLS and others:
            # Rare large losses that hardly matter at ε fill the window of a tilt that is too high.
            best = others.pop(0)
            tilt, outside = float(_TILTS[best]), _OUTSIDE + float(shape[best])
            continue
        if cells > _MOST_CELLS and before < math.inf:
            return max(found, least)
        if cells > _MOST_CELLS:
            width *= _REFINED
            continue
        power = 1 << (cells - 1).bit_length()
        size = power if cells > 3 * power // 4 else 3 * power // 4
        found = sums.solve(bottom, size, min(float(bounds[best]), before))
        if found <= least or before - found <= _MOVE * max(found, least, _OF_DELTA * delta):
            return max(found, least)
        before, width = found, width / _REFINED


@lru_cache(maxsize=2048)
def _quadrature(event: GaussianEvent, *, removing: bool) -> tuple[Array, Array]:
    """Returns log E exp(θ·loss), and the tilted mean of |loss|, at `_TILTS`: to choose by."""
    sigma = event.noise_multiplier
    x = np.linspace(-30 * sigma, 1 + 30 * sigma, 3001)
    log_ratio = _loss_at(x, event)
    loss = log_ratio if removing else -log_ratio
    log_density = -0.5 * (x / sigma) ** 2 + (log_ratio if removing else 0.0)
    log_density -= np.logaddexp.reduce(log_density)
    exponents = log_density + _TILTS[:, None] * loss
    peak = exponents.max(axis=1)
    weight = np.exp(exponents - peak[:, None])
    sums = weight.sum(axis=1)
    return peak + np.log(sums), weight @ np.abs(loss) / sums


@dataclass(frozen=True, slots=True)
class _Loss:
    """One release's privacy loss on the grid of multiples of a cell's width.

    Attributes:
        first: Index of the first cell: `log_mass[i]` is at (first + i)·h.
        log_mass: Logarithms of probabilities under the distribution that the loss is drawn from.
        breach: Probability of a loss beyond the grid, counted as infinite.
    """

    first: int
    log_mass: Array
    breach: float


class _Sums:
    """Sums of losses on one grid."""

    def __init__(
        self,
        releases: Releases,
        delta: float,
        tilt: float,
        width: float,
        single: float,
        *,
        removing: bool,
    ) -> None:
        longest = max(np.ptp(_ends(event, single)) for event, _ in releases)
        self.width = max(width, 2.0 ** math.ceil(math.log2(longest / _MOST_CELLS_OF_ONE)))
        self.delta, self.tilt = delta, tilt
        self.of_one = [
            ((event, self.width, single), {"removing": removing}, n) for event, n in releases
        ]

    def window(self, outside: float) -> tuple[float, float]:
        """Returns bounds that tilted sums pass with at most this log-probability (Chernoff).

        The upper one is passed by sums as they are with probability _SHARE·δ at most, too.
        """
        ways = np.array(_DISTANCES) * self.tilt
        middle = self._log_moment(self.tilt)
        higher = np.array([self._log_moment(self.tilt + way) for way in ways])
        lower = np.array([self._log_moment(self.tilt - way) for way in ways])
        top = np.min((higher - middle - outside) / ways)
        own = np.min((higher - math.log(_SHARE * self.delta)) / (self.tilt + ways))
        return -float(np.min((lower - middle - outside) / ways)), max(float(top), float(own))

    def _log_moment(self, order: float) -> float:
        return sum(n * _log_moment(*one, order, **way) for one, way, n in self.of_one)

    def solve(self, bottom: float, size: int, expected: float) -> float:
        """Returns ε from a window of this many cells; infinite where δ does not cover what is cut off."""
        found, rounding = self._solve(bottom, size, expected, exact=False)
        if rounding <= _MOST_ROUNDING:
            return found
        return self._solve(bottom, size, expected, exact=True)[0]

    def _solve(
        self, bottom: float, size: int, expected: float, *, exact: bool
    ) -> tuple[float, float]:
        """Returns ε, and what share of δ rounding may come to, with 64-bit floats or longer ones."""
        values, mass, noise = self._sum(bottom, size, exact=exact)
        breach = sum(n * _discretise(*one, **way).breach for one, way, n in self.of_one)
        left = self.delta * (1 - _SHARE) - breach
        if left <= 0:
            return math.inf, 0.0
        positive = values > 0
        values, mass = values[positive], np.maximum(mass[positive], 0.0)
        log_moment, log_left = self._log_moment(self.tilt), math.log(left)

        def excess(epsilon: float) -> float:
            """Log δ(ε) − log δ: E max(0, 1 − exp(ε − loss)), from the tilted law."""
            start = int(np.searchsorted(values, epsilon, side="right"))
            end = int(np.searchsorted(values, epsilon - _LEAST_LOG / self.tilt))
            above = epsilon - values[start:end]
            parts = mass[start:end] * np.exp(self.tilt * above) * -np.expm1(above)
            beyond = math.exp(_LEAST_LOG)  # bounds what counts of larger losses
            log_delta = math.log(float(parts.sum()) + beyond + noise) + log_moment
            return log_delta - self.tilt * epsilon - log_left

        if not len(values) or excess(0.0) <= 0:
            return 0.0, 0.0
        if excess(float(values[-1])) > 0:
            return math.inf, math.inf
        found = self._root(excess, expected, float(values[-1]))
        rounding = noise * math.exp(min(700.0, log_moment - self.tilt * found - log_left))
        return found, rounding

    def _sum(self, bottom: float, size: int, *, exact: bool) -> tuple[Array, Array, float]:
        """Returns the cells of a window, the tilted law's mass in each, and what rounding may add to a sum of it."""
        transforms = [
            (_transform(*one, size, self.tilt, exact=exact, **way), n)
            for one, way, n in self.of_one
        ]
        # Most of a power is less than any rounding, and need not be computed.
        some = sum(n * log_size for (_, log_size), n in transforms) > _LEAST_LOG
        spectrum = np.zeros_like(transforms[0][0][0])
        spectrum[some] = 1.0
        for (transform, _), n in transforms:
            spectrum[some] *= transform[some] ** n
        first = math.floor(bottom / self.width)
        mass = np.roll(fft.irfft(spectrum, size), -(first % size)).astype(np.float64)
        values: Array = self.width * np.arange(first, first + size, dtype=np.float64)
        total = sum(n for _, _, n in self.of_one)
        # Σ|e|·w ≤ ‖e‖₂·‖w‖₂: transforms err by some ulps·log₂ N of the norm, n-fold powers by n·ulp.
        ulp = float(np.finfo(spectrum.dtype).eps)
        noise = ulp * (2 * total + 4 * math.log2(size)) * math.sqrt(float(mass @ mass))
        return values, mass, noise / math.sqrt(-math.expm1(-2 * self.tilt * self.width))

    def _root(self, excess: Callable[[float], float], expected: float, last: float) -> float:
        """Returns the ε at which the excess vanishes, rounded up; it lies in (0, last], probably near `expected`."""
        close = max(1e-6 * expected, 1e-6 * self.delta)
        low, high = (0.0, last)
        slack = excess(expected)
        if slack <= 0:
            near = max(0.0, expected + 2 * slack / self.tilt - close)
            low, high = (near if excess(near) > 0 else 0.0), expected
        return float(brentq(excess, low, high, xtol=close, rtol=1e-12)) + close


@lru_cache(maxsize=32)
def _transform(
    event: GaussianEvent,
    width: float,
    tail: float,
    size: int,
    tilt: float,
    *,
    exact: bool,
    removing: bool,
) -> tuple[NDArray[np.complexfloating], Array]:
    """Returns the transform of one tilted law on a circle of cells, and the logarithm of its size."""
    loss = _discretise(event, width, tail, removing=removing)
    cells = loss.first + np.arange(len(loss.log_mass))
    log_moment = _log_moment(event, width, tail, tilt, removing=removing)
    mass = np.exp(loss.log_mass + tilt * width * cells - log_moment)
    circle = np.bincount(cells % size, weights=mass, minlength=size)
    transform = fft.rfft(circle.astype(np.longdouble) if exact else circle)
    return transform, np.log(np.maximum(np.abs(transform).astype(np.float64), 1e-300))


@lru_cache(maxsize=65536)
def _log_moment(
    event: GaussianEvent, width: float, tail: float, order: float, *, removing: bool
) -> float:
    """Returns log E exp(order·loss) of a loss on the grid."""
    loss = _discretise(event, width, tail, removing=removing)
    exponents = loss.log_mass + order * width * (loss.first + np.arange(len(loss.log_mass)))
    peak = float(exponents.max())
    return peak + math.log(float(np.exp(exponents - peak).sum()))


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


@lru_cache(maxsize=64)
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
    with np.errstate(divide="ignore"):
        return _Loss(first, np.log(mass), float(beyond))


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
