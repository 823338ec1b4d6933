"""ε of many releases: privacy losses on a grid, tilted, and composed by a Fourier transform.

The law of a sum of losses is the inverse transform of a product of powers (Koskela et al. 2020),
which cost the same for one release as for 100,000. Every law is tilted first: weighted by
exp(θ·loss) and normalised, with θ chosen so that the middle of the tilted sum lies where ε is. So
float64's errors are relative to δ however small δ is, and a window of some deviations around ε
holds all that counts. docs/mathematics.md has the proof that the result is an upper bound, and the
budget of its errors.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import add, itemgetter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.accounting.losses import ORDERS, Array, Cumulants, Way, cumulants, on_grid

Releases: TypeAlias = tuple[tuple[GaussianEvent, int], ...]
Transform: TypeAlias = NDArray[np.complex128] | NDArray[np.clongdouble]

# How far the grid may raise ε: a share of it, or of a tenth of δ if that is more.
_TOLERANCE = 2e-4
_LEAST_SHARE = 0.1
# Share of δ for losses beyond the window, and for losses beyond the grid of a single release.
_SHARE = 1e-6
# What may wrap round from below the window, as a share of δ. It is counted, not dropped.
_WRAPPED = 1e-7
_MOST_CELLS = 2**21
# A first grid that was far too coarse says little of how fine the next has to be.
_MOST_REFINED = 32
# Rounding: ulps for each release, by powers, and for each doubling of a transform's length. Measured
# errors are a third of it. Where it comes to more than such a share of δ, longer floats are taken.
_ULPS, _ULPS_OF_TRANSFORM = 2, 4
_MOST_ROUNDING = 1e-5
_TINY = 1e-300
# Lower tilts are tried, this many steps of `ORDERS` apart, where a window is too wide for fine cells.
_LOWER_TILTS = range(0, 25, 6)
# Orders over the tilt at which the ends of the window are sought.
_LOWER = np.array([-31.0, -7.0, -3.0, -1.0, -0.25, 0.0, 0.25, 0.5, 0.75, 0.9])
_HIGHER = np.array([1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 9.0, 33.0])


@lru_cache(maxsize=2048)
def composed_epsilon(releases: Releases, delta: float) -> float:
    """Returns an upper bound on ε(δ), for adding and for removing a unit.

    Args:
        releases: Each kind of release, and how many of it; at least one.
        delta: δ in (0, 1).
    """
    epsilon = _Sum(releases, delta, Way.REMOVING).epsilon(0.0)
    if all(event.sampling_rate == 1 for event, _ in releases):
        return epsilon  # the loss of adding a unit has the same law
    return max(epsilon, _Sum(releases, delta, Way.ADDING).epsilon(epsilon))


def renyi_bound(releases: Releases, delta: float) -> float:
    """Returns the Rényi bound on ε(δ): Balle et al. 2020, theorem 21, at the best of `ORDERS`."""
    if not releases:
        return 0.0
    total = np.max([_total(releases, way).log_moment for way in Way], axis=0)
    return max(0.0, _converted(total, delta))


def _converted(log_moments: Array, delta: float) -> float:
    per_order = ORDERS * np.log(ORDERS) - (1 + ORDERS) * np.log1p(ORDERS) - math.log(delta)
    return float(np.min((log_moments + per_order) / ORDERS))


def _total(releases: Releases, way: Way) -> Cumulants:
    parts = [cumulants(event, way).times(count) for event, count in releases]
    return reduce(add, parts)


@dataclass(frozen=True, slots=True)
class _Aim:
    """Where ε is expected, by a saddle-point approximation (Alghamdi et al. 2022).

    Attributes:
        order: Index of the tilt θ in `ORDERS`.
        epsilon: The ε expected, at least 0.
    """

    order: int
    epsilon: float

    @property
    def tilt(self) -> float:
        return float(ORDERS[self.order])


def _aim(total: Cumulants, log_delta: float) -> _Aim:
    """Expects ε: each order is the saddle point of one ε, whose log δ(ε) falls as the order rises."""
    epsilons = total.mean - 1 / ORDERS - 1 / (1 + ORDERS)
    spread = total.variance + ORDERS**-2 + (1 + ORDERS) ** -2
    log_deltas = total.log_moment - ORDERS * epsilons - np.log(ORDERS) - np.log1p(ORDERS)
    log_deltas -= 0.5 * np.log(2 * math.pi * spread)
    enough = (log_deltas <= log_delta) & (epsilons >= 0)
    order = int(np.argmax(enough)) if enough.any() else len(ORDERS) - 1
    above, below = log_deltas[order - 1], log_deltas[order]
    if order == 0 or above <= log_delta or above <= below:
        return _Aim(order, max(0.0, float(epsilons[order])))
    share = (above - log_delta) / (above - below)
    epsilon = epsilons[order - 1] + share * (epsilons[order] - epsilons[order - 1])
    return _Aim(order - int(share < 0.5), max(0.0, float(epsilon)))


@dataclass(frozen=True, slots=True)
class _Found:
    """ε on a grid.

    Attributes:
        epsilon: ε.
        hazard: Density of the sum at ε over e^ε·E[exp(−loss); loss > ε]: how much ε rises for each
            half of variance that is added.
        rounding: What rounding may come to, as a share of δ.
        window: Losses from the first cell to the last.
    """

    epsilon: float
    hazard: float
    rounding: float
    window: float


class _Sum:
    """The sum of the losses of many releases."""

    def __init__(self, releases: Releases, delta: float, way: Way) -> None:
        self.releases, self.delta, self.way = releases, delta, way
        self.count = sum(n for _, n in releases)
        self.total = _total(releases, way)
        self.aim = _aim(self.total, math.log(delta))
        self.reach = _reach(releases, delta, way)

    def epsilon(self, least: float) -> float:
        """Returns the least ε with E max(0, 1 − exp(ε − loss)) ≤ δ; infinite if none is found.

        Args:
            least: What ε counts for at least, so that less of it need not be told apart.
        """
        if _converted(self.total.log_moment, self.delta) <= least:
            return least
        top = self._top(ORDERS[self.aim.order :], self.total.log_moment[self.aim.order :])
        if top <= least:
            return least  # δ(ε) ≤ P(loss > ε)
        deviation = math.sqrt(float(self.total.variance[self.aim.order]))
        finest = 2 * max(7 * deviation, top - self.aim.epsilon) / _MOST_CELLS
        allowed = self._allowed(max(self.aim.epsilon, least), 1 + self.aim.tilt)
        width, narrowed = self._width(allowed, finest), False
        while True:
            found = self._on_grid(width)
            finest = max(found.window / _MOST_CELLS, width / _MOST_REFINED)
            if found.epsilon <= least or found.epsilon == math.inf:
                return found.epsilon
            # Where the aim was far off, the grid is finer now.
            needed = self._allowed(max(found.epsilon, least), found.hazard)
            finer = self._width(min(needed, allowed / 4), finest)
            if self._error(width) <= 2 * needed:
                return found.epsilon
            if self._width(needed, width / _MOST_REFINED) < finest and not narrowed:
                narrowed = True
                self.aim, window = self._narrowest(width, found.epsilon)
                finest = max(window / _MOST_CELLS, width / _MOST_REFINED)
                finer = self._width(min(needed, allowed / 4), finest)
            if finer >= width:
                return found.epsilon
            allowed, width = min(needed, allowed / 4), finer

    def _narrowest(self, width: float, epsilon: float) -> tuple[_Aim, float]:
        """Returns the tilt whose window around an ε is the narrowest, and the width of that window.

        Rare large losses that hardly matter at ε fill the window of a tilt that is too high.
        """
        orders = {max(0, self.aim.order - steps) for steps in _LOWER_TILTS}
        aims = [_Aim(order, epsilon) for order in orders]
        cells, aim = min(
            ((_size(self._window(width, aim)[1]), aim) for aim in aims), key=itemgetter(0)
        )
        return aim, cells * width

    def _on_grid(self, width: float) -> "_Found":
        """Returns ε on a grid."""
        grids = [on_grid(event, self.way, width, self.reach) for event, _ in self.releases]
        left = self.delta * (1 - _SHARE)
        left -= sum(n * grid.breach for grid, (_, n) in zip(grids, self.releases, strict=True))
        if left <= 0:
            return _Found(math.inf, math.inf, 0.0, 0.0)
        moment = self._log_moments(width, [self.aim.tilt])[0]
        first, cells = self._window(width, self.aim)
        size = _size(cells)
        losses = width * np.arange(first, first + size, dtype=np.float64)
        for long in (False, True):
            mass = self._tilted(width, size, first, long=long)
            ulp = float(np.finfo(np.longdouble if long else np.float64).eps)
            error = ulp * float(np.linalg.norm(mass))
            error *= _ULPS * self.count + _ULPS_OF_TRANSFORM * math.log2(size)
            found = self._solve(losses, mass, error, math.log(left) - moment, self.aim.epsilon)
            if found.rounding <= _MOST_ROUNDING:
                break
        return found

    def _window(self, width: float, aim: _Aim) -> tuple[int, int]:
        """Returns the first cell of a window that the tilted sum is hardly ever outside of, and how many.

        Chernoff's bounds, from the moments of the losses as they are on the grid. What wraps round
        is counted, and as at most exp(K − θ·ε) times its tilted probability.
        """
        tilt = aim.tilt
        moment = self._log_moments(width, [tilt])[0]
        weight = math.log(self.delta) - moment + tilt * aim.epsilon
        outside = moment + math.log(_WRAPPED) + min(0.0, weight)
        lower = self._log_moments(width, tilt * _LOWER)
        higher = self._log_moments(width, tilt * _HIGHER)
        bottom = float(np.max((lower - outside) / (tilt * (_LOWER - 1))))
        top = float(np.min((higher - outside) / (tilt * (_HIGHER - 1))))
        top = max(top, self._top(tilt * _HIGHER, higher))
        first = math.floor(bottom / width)
        return first, math.ceil(top / width) - first + 2

    def _log_moments(self, width: float, orders: Iterable[float]) -> Array:
        """Returns log E exp(θ·sum) on the grid, at each order θ."""
        at = [float(order) for order in orders]
        parts = [
            n * np.array([_log_moment(event, self.way, width, self.reach, x) for x in at])
            for event, n in self.releases
        ]
        return np.asarray(np.sum(parts, axis=0))

    def _allowed(self, epsilon: float, hazard: float) -> float:
        return _TOLERANCE * max(epsilon, _LEAST_SHARE * self.delta) / hazard

    def _top(self, orders: Array, log_moments: Array) -> float:
        """Returns a loss that the sum passes with probability at most _SHARE·δ."""
        return float(np.min((log_moments - math.log(_SHARE * self.delta)) / orders))

    def _error(self, width: float) -> float:
        """Returns how much a grid raises ε at most, over the hazard: half the variance it adds.

        Rounding up adds (b − loss)·(loss − a) to the variance, between the ends a and b of the
        loss's cell: at most h²/4, and at most |loss|·h since 0 is an end of a cell.
        """
        order = self.aim.order
        return sum(
            n * min(width**2 / 8, width * float(cumulants(event, self.way).magnitude[order]) / 2)
            for event, n in self.releases
        )

    def _width(self, allowed: float, finest: float) -> float:
        """Returns the width of a cell, a power of 2^¼, so that a growing history keeps it."""
        quarter = math.floor(2 * math.log2(max(8 * allowed / self.count, 1e-300)))
        while self._error(2.0 ** ((quarter + 1) / 4)) <= allowed:
            quarter += 1
        quarter = min(quarter, math.floor(-4 * math.log2(2 * (1 + self.aim.tilt))))
        return float(2.0 ** (max(quarter, math.ceil(4 * math.log2(finest))) / 4))

    def _tilted(self, width: float, size: int, first: int, *, long: bool) -> Array:
        """Returns the law of the tilted sum, from the cell `first` on."""
        logs: Transform = np.sum(
            [
                n * _log_transform(event, self.way, width, self.reach, self.aim.tilt, size, long)
                for event, n in self.releases
            ],
            axis=0,
        )
        spectrum = np.zeros_like(logs)
        some = logs.real > -80  # e⁻⁸⁰ is nothing beside the rounding of the transform
        spectrum[some] = np.exp(logs[some])
        mass: Array = np.roll(fft.irfft(spectrum, size), -(first % size)).astype(np.float64)
        return mass

    def _solve(
        self, losses: Array, mass: Array, error: float, log_target: float, centre: float
    ) -> "_Found":
        """Finds ε.

        Args:
            losses: On the grid.
            mass: Of the tilted sum.
            error: Bound on the 2-norm of the errors in `mass`.
            log_target: log δ less the cumulant that the tilt was normalised by.
            centre: The ε expected; what is far below is not looked at.
        """
        tilt, width = self.aim.tilt, float(losses[1] - losses[0])
        window = float(losses[-1] - losses[0])
        centre = min(centre, -log_target / tilt)  # ε is no more: δ(ε) ≤ exp(K − θ·ε)
        lowest = int(np.searchsorted(losses, centre - 600 / (1 + tilt)))
        start = max(0, lowest, int(np.searchsorted(losses, 0.0)) - 1)
        x = losses[start:] - centre
        # Σ|error|·exp(−θx) ≤ ‖error‖₂·‖exp(−θx)‖₂
        noise = error / math.sqrt(-math.expm1(-2 * tilt * width))
        weight = np.exp(-tilt * x)
        # P(loss > x) and, from ∫ exp(ε − t)·P(loss > t) dt beyond ε, δ(ε): all terms positive.
        beyond = np.cumsum((np.maximum(mass[start:], 0.0) * weight)[::-1])[::-1]
        beyond = np.append(beyond[1:], 0.0)
        discount = np.exp(-np.minimum(x, 600.0))
        deltas = np.cumsum((discount * beyond)[::-1])[::-1] / discount * -math.expm1(-width)
        target = math.exp(log_target + tilt * centre)
        within = deltas + noise * weight <= target
        if not within[-1]:
            return _Found(math.inf, math.inf, 0.0, 0.0)
        index = int(np.argmax(within))
        if index == 0 and losses[start] > 0 and start > 0:
            return self._solve(losses, mass, error, log_target, float(losses[start]))
        if index == 0:
            return _Found(max(0.0, float(losses[start])), 1 + tilt, 0.0, window)
        # Between two losses δ(ε) = P(loss > ε) − e^ε·constant.
        low = index - 1
        gap = deltas[low] + noise * weight[low] - target
        slope = max(beyond[low] - deltas[low], gap / math.expm1(width), _TINY)
        epsilon = float(losses[start + low]) + min(math.log1p(gap / slope), width)
        # The grid's own deviation may carry over what is so far below.
        far = max(0, low - math.ceil(4 * math.sqrt(2 * self._error(width)) / width))
        density = float(np.max(mass[start + far : start + index + 1] * weight[far : index + 1]))
        hazard = max(1.0, density / (width * slope))
        return _Found(max(0.0, epsilon), hazard, noise * float(weight[low]) / target, window)


def _reach(releases: Releases, delta: float, way: Way) -> tuple[int, int]:
    """Returns deviations of the noise, below 0 and above 1, beyond which hardly any outcome is."""
    tail = _SHARE * delta / sum(n for _, n in releases)
    low = high = math.ceil(math.sqrt(-2 * math.log(tail)))
    if way is Way.REMOVING:

        def beyond(event: GaussianEvent) -> float:
            rare = float(ndtr(-high + 1 - 1 / event.noise_multiplier))
            return rare + event.sampling_rate * float(ndtr(-high + 1))

        while high > 1 and all(beyond(event) <= tail for event, _ in releases):
            high -= 1
    return low, high


def _size(cells: int) -> int:
    """Returns a length not below that a transform is quick for."""
    power = 1 << max(2, (cells - 1).bit_length() - 3)
    return next(n * power for n in (4, 5, 6, 8) if n * power >= cells)


@lru_cache(maxsize=1024)
def _log_moment(
    event: GaussianEvent, way: Way, width: float, reach: tuple[int, int], order: float
) -> float:
    """Returns log E exp(θ·loss) of a loss on the grid."""
    exponents = _exponents(event, way, width, reach, order)
    peak = exponents.max()
    return float(peak + math.log(np.exp(exponents - peak).sum()))


def _exponents(
    event: GaussianEvent, way: Way, width: float, reach: tuple[int, int], order: float
) -> Array:
    grid = on_grid(event, way, width, reach)
    losses = width * np.arange(grid.first, grid.first + len(grid.log_mass), dtype=np.float64)
    return grid.log_mass + order * losses


# A run charges the same kind again and again beside others that stay as they are.
@lru_cache(maxsize=32)
def _log_transform(
    event: GaussianEvent,
    way: Way,
    width: float,
    reach: tuple[int, int],
    tilt: float,
    size: int,
    long: bool,
) -> Transform:
    exponents = _exponents(event, way, width, reach, tilt)
    masses = np.exp(exponents - _log_moment(event, way, width, reach, tilt))
    wrapped = np.zeros(size, np.longdouble if long else np.float64)
    first = on_grid(event, way, width, reach).first
    np.add.at(wrapped, (first + np.arange(len(masses))) % size, masses)
    transform: Transform = fft.rfft(wrapped)
    transform[transform == 0] = _TINY
    logarithm: Transform = np.log(transform)
    return logarithm
