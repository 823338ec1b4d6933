"""Skellam noise, sampled exactly: the difference of two independent Poisson variables of one mean.

With variance x = σ² it has mass e^−x·I_n(x) on the integers, I being the modified Bessel function
(DLMF 10.35.1). Its contour integral (DLMF 10.32.3), moved through the saddle, gives without any expansion

    e^−x·I_n(x) = e^−h(n)·J(n),   R = √(x² + n²),   h(n) = n·asinh(n/x) − n²/(R + x),
    J(n) = (1/2π)·∫ exp(−R·(1 − cos φ))·cos(n·(φ − sin φ)) dφ   over a period.

The trapezoid rule with N points has as its error in J the mass, at n + N, n − N, n + 2N and so on, of a
difference of two Poisson variables with mean n and variance R: at most 2·exp(−N²/(2·(R + N/3)))
(Bernstein). So J is known to any number of digits, and the same sum serves float64 and mpmath.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import mpmath
import numpy as np
from numpy.typing import NDArray

from hortus.privacy.noise import exact_sampler

Array = NDArray[np.float64]

_FLOAT_BITS = 52


@dataclass(frozen=True, slots=True)
class Skellam:
    """The law, as the sampler asks for it (`exact_sampler.Law`)."""

    sigma: int

    def __post_init__(self) -> None:
        exact_sampler.check_sigma(self.sigma)

    @property
    def variance(self) -> int:
        """Variance x, and argument of the Bessel functions."""
        return self.sigma**2

    def ratio(self, start: Array, end: Array) -> Array:
        """Returns ρ(end)/ρ(start)."""
        x = float(self.variance)
        r, s = np.hypot(x, start), np.hypot(x, end)
        # h(end) − h(start) in terms that are all as small as itself: j of them cancel nothing.
        step = (end - start) * (end + start)
        fall = (
            (end - start) * np.arcsinh(end / x)
            + start * np.arcsinh(step / np.maximum(end * r + start * s, 1))
            - step / (r + s)
        )
        rule = _float_rule(self)
        ratio: Array = np.exp(-fall) * rule.sum(s, end) / rule.sum(r, start)
        return ratio

    def exactly(self, n: int, bits: int) -> mpmath.mpf:
        """Returns ρ(n) to this many bits."""
        return _mass(self.variance, n, bits) / _mass(self.variance, 0, bits)

    def reach(self, nats: float) -> int:
        """Returns where Bernstein's bound on the tail is e^−nats."""
        return _reach(self.variance, nats)


def _reach(variance: float, nats: float) -> int:
    """Solves n²/(2·(variance + n/3)) = nats, rounded up."""
    return math.ceil(nats / 3 + math.sqrt((nats / 3) ** 2 + 2 * nats * variance))


def _points(least: float, most: float, bits: int) -> tuple[int, int]:
    """Returns N, odd, and how many of its points on either side of 0 count, for R in a range.

    Both that error and the points left out are then below 2^−bits of J, which is 1/√(2πR) nearly.
    """
    nats = bits * math.log(2) + math.log(2 * math.pi * most) / 2 + 3
    count = _reach(most, nats) | 1
    angle = 2 * math.asin(math.sqrt(min(1.0, nats / (2 * least))))
    return count, min(count // 2, math.ceil(count * angle / (2 * math.pi)))


def _mass(variance: int, n: int, bits: int) -> mpmath.mpf:
    """Returns e^−x·I_n(x) to this many bits."""
    with mpmath.workprec(bits + 32):
        radius = mpmath.sqrt(variance**2 + n**2)
        count, used = _points(float(radius), float(radius), bits)
        total = mpmath.mpf(1)
        for point in range(1, used + 1):
            angle = 2 * mpmath.pi * point / count
            damping = mpmath.exp(-2 * radius * mpmath.sin(angle / 2) ** 2)
            total += 2 * damping * mpmath.cos(n * (angle - mpmath.sin(angle)))
        height = n * mpmath.asinh(mpmath.mpf(n) / variance) - n**2 / (radius + variance)
        return mpmath.exp(-height) * total / count


@dataclass(frozen=True, slots=True)
class _Rule:
    """The trapezoid rule on one side of 0.

    Attributes:
        rise: float64[points], 1 − cos φ.
        lag: float64[points], φ − sin φ.
    """

    rise: Array
    lag: Array

    def sum(self, radius: Array, n: Array) -> Array:
        """Returns N·J(n)."""
        total = np.ones_like(radius)
        for rise, lag in zip(self.rise, self.lag, strict=True):
            total += 2 * np.exp(-rise * radius) * np.cos(lag * n)
        return total


@lru_cache(maxsize=16)
def _float_rule(law: Skellam) -> _Rule:
    farthest = law.reach(exact_sampler.WIDEST) + law.sigma
    count, used = _points(law.variance, math.hypot(law.variance, farthest), _FLOAT_BITS)
    with mpmath.workprec(256):
        angles = [2 * mpmath.pi * point / count for point in range(1, used + 1)]
        rise = [float(2 * mpmath.sin(angle / 2) ** 2) for angle in angles]
        lag = [float(angle - mpmath.sin(angle)) for angle in angles]
    return _Rule(np.array(rise), np.array(lag))
