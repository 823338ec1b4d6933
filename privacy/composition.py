"""Composition of privacy loss distributions in the Fourier domain: a charge costs milliseconds.

Google's dp_accounting puts one release's loss on a grid (Doroshenko et al. 2022, an upper bound);
the distribution of a sum of losses is here the inverse transform of a product of powers (Koskela et
al. 2020). Powers, unlike repeated convolutions, cost the same for one release as for 100,000, and
make the result a function of the multiset alone, however it came about.

The width of a cell follows the spread of a single loss, so that the grid's own error stays small
against it. A sum that leaves the window on the right, which a Rényi bound makes improbable, counts
as a certain breach; on the left it wraps to the right, where it can only raise ε.
"""

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Release: TypeAlias = tuple[float, float]  # sampling rate, noise multiplier

# Cell over the deviation of one release's loss.
_CELL = 0.04
# Share of δ for what leaves the window.
_SHARE = 1e-5
_MOST_CELLS = 2**19
_ULP = 2.0**-52
_LEAST = 1e-30


def composed_epsilon(
    releases: tuple[tuple[Release, int], ...], delta: float, orders: Array, rdp: tuple[Array, ...]
) -> float:
    """Returns an upper bound on ε(δ), for adding and for removing a unit.

    Args:
        releases: Sampling rate and noise multiplier of each kind of release, and how many of it;
            at least one.
        delta: δ in (0, 1).
        orders: Rényi orders.
        rdp: Rényi divergence of one release of each kind, at `orders`.
    """
    total = sum(n for _, n in releases)
    renyi = sum((n * one for (_, n), one in zip(releases, rdp, strict=True)), np.zeros(len(orders)))
    # A loss exceeds t with probability at most exp((α − 1)(D_α − t)).
    edge = float(np.nanmin(renyi - math.log(_SHARE * delta) / (orders - 1)))
    # For a Gaussian D_α = α·s²/2; the lowest order says most about the bulk. Hardly any loss at all
    # may come out below 0.
    spread = math.sqrt(max(_LEAST, 2 * float(renyi[0]) / float(orders[0]) / total))
    width = 2.0 ** (math.floor(4 * math.log2(_CELL * spread)) / 4)
    while 2 * edge / width > _MOST_CELLS:
        width *= 2
    size = 1 << math.ceil(math.log2(2 * edge / width + 2))
    return max(_direction(releases, delta, width, size, way) for way in (0, 1))


def _direction(
    releases: tuple[tuple[Release, int], ...], delta: float, width: float, size: int, way: int
) -> float:
    spectrum = np.ones(size // 2 + 1, np.complex128)
    # Rounding: log₂ N units in the last place by the transforms, n by the powers, of the norm of the
    # masses; a sum of N errors is at most √N times their norm.
    total = sum(n for _, n in releases)
    rounding = _ULP * (10 * total + 2 * math.sqrt(size) * math.log2(size))
    breach = _SHARE * delta + rounding
    for release, count in releases:
        spectrum *= _power(release, count, width, size, way)
        breach += count * _single(release, width, way)[2]
    mass = np.fft.fftshift(np.fft.irfft(spectrum, size)).astype(np.float64)
    losses = width * np.arange(-(size // 2), size // 2, dtype=np.float64)
    return _smallest_epsilon(losses, np.maximum(mass, 0.0), delta - breach)


def _smallest_epsilon(losses: Array, mass: Array, delta: float) -> float:
    """Returns the least ε ≥ 0 with E max(0, 1 − exp(ε − loss)) ≤ δ; infinite if there is none."""
    positive = losses > 0
    losses, mass = losses[positive][::-1], mass[positive][::-1]
    tail = np.cumsum(mass)
    discounted = np.cumsum(mass * np.exp(-losses))
    # At each loss, what is above it: δ(ε) grows as ε falls.
    reached = tail - np.exp(losses) * discounted
    enough = np.flatnonzero(reached > delta)
    if delta <= 0 or (enough.size and enough[0] == 0):
        return math.inf
    # ε lies below the last loss whose δ(ε) is within δ: there the sums run up to it.
    index = int(enough[0]) - 1 if enough.size else len(losses) - 1
    if tail[index] <= delta:
        return float(losses[index + 1]) if enough.size else 0.0
    return max(0.0, math.log((tail[index] - delta) / discounted[index]))


# A run charges the same kind again and again beside others that stay as they are.
@lru_cache(maxsize=64)
def _power(
    release: Release, count: int, width: float, size: int, way: int
) -> NDArray[np.complex128]:
    return np.power(_transform(release, width, size, way), count)


@lru_cache(maxsize=128)
def _transform(release: Release, width: float, size: int, way: int) -> NDArray[np.complex128]:
    first, mass, _ = _single(release, width, way)
    wrapped = np.zeros(size)
    np.add.at(wrapped, (first + np.arange(len(mass))) % size, mass)
    return np.fft.rfft(wrapped)


@lru_cache(maxsize=256)
def _single(release: Release, width: float, way: int) -> tuple[int, Array, float]:
    """Returns one release's loss: index of the first cell, masses, probability of infinity."""
    sampling_rate, noise_multiplier = release
    both = pld.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=width,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
    # The library has no public way to the masses; its version is pinned.
    dense = (both._pmf_remove, both._pmf_add)[way].to_dense_pmf()
    return dense._lower_loss, np.asarray(dense._probs), float(dense._infinity_mass)
