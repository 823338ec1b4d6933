"""An exact, vectorised sampler of the discrete Gaussian.

The discrete Gaussian with integer parameter σ has mass ∝ exp(−n²/2σ²) on the integers (Canonne,
Kamath and Steinke 2020, Definition 1). Following Karney (2016, Algorithm D) in spirit, |n| = kσ + j
with k drawn with mass ∝ exp(−k²/2), j uniform on {0, …, σ−1}, and n kept with probability
exp(−(2kσj + j²)/2σ²), since k²/2 + (2kσj + j²)/2σ² = n²/2σ².

Exactness: each comparison of a uniform number with a real probability sees 53 bits of the former
and a float64 of the latter. Where the two are closer than 2⁻⁴⁵, which float64 could get wrong, the
comparison is settled by more random bits and as many digits of the probability as it takes. So
floating point decides nothing that it cannot decide correctly.
"""

import math
from collections.abc import Callable
from functools import partial

import mpmath
import numpy as np
from numpy.typing import NDArray

from hortus.privacy.randomness import Stream

MAX_SIGMA = 2**40
_UNIT = 2.0**-53
# float64 evaluates the probabilities below with an error under 2⁻⁴⁹.
_DOUBT = 2.0**-45
_ACCEPTED = 0.7  # of all proposals; the exact share is √(π/2) / Σ exp(−k²/2) ≈ 0.715
_TABLE = np.cumsum(np.exp(-(np.arange(9.0) ** 2) / 2))
_NORMALISER = math.fsum(math.exp(-(k**2) / 2) for k in range(40))
_CUMULATIVE = _TABLE / _NORMALISER


def sample(sigma: int, size: int, stream: Stream) -> NDArray[np.int64]:
    """Draws independent discrete Gaussians.

    Args:
        sigma: σ, from 1 to 2⁴⁰.
        size: How many.
        stream: Uniform bits; their number depends on nothing else.

    Returns:
        int64[size].

    Raises:
        ValueError: σ is out of range.
    """
    if not 1 <= sigma <= MAX_SIGMA:
        raise ValueError(f"sigma is {sigma}, not from 1 to {MAX_SIGMA}")
    drawn: list[NDArray[np.int64]] = []
    missing = size
    while missing > 0:
        drawn.append(_propose(sigma, int(missing / _ACCEPTED) + 32, stream)[:missing])
        missing -= len(drawn[-1])
    return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)


def _propose(sigma: int, size: int, stream: Stream) -> NDArray[np.int64]:
    """Makes `size` proposals; returns those accepted."""
    words = stream.uint64(size)
    negative = (words & np.uint64(1)).astype(bool)
    k = _draw_k((words >> np.uint64(11)).astype(np.float64) * _UNIT, stream)
    bits = stream.uint64(size)
    # Words from the last, incomplete multiple of σ are dropped: the others are uniform modulo σ.
    excess = 2**64 % sigma
    whole = bits < np.uint64(2**64 - excess) if excess else None
    j = (bits % np.uint64(sigma)).astype(np.int64)
    x = j / sigma
    probability = np.exp(-x * (2 * k + x) / 2)
    uniform = stream.uniform53(size)
    keep = uniform < probability
    for index in np.flatnonzero(np.abs(uniform - probability) < _DOUBT):
        exact = _acceptance(sigma, int(k[index]), int(j[index]))
        keep[index] = is_below(float(uniform[index]), exact, stream)
    keep &= ~(negative & (k == 0) & (j == 0))
    if whole is not None:
        keep &= whole
    magnitude = k * sigma + j
    return np.where(negative, -magnitude, magnitude)[keep]


def _draw_k(uniform: NDArray[np.float64], stream: Stream) -> NDArray[np.int64]:
    k = np.searchsorted(_CUMULATIVE, uniform, side="right")
    nearest = np.minimum(np.abs(uniform - _CUMULATIVE[np.minimum(k, 8)]), 1 - uniform)
    nearest = np.minimum(nearest, np.abs(uniform - _CUMULATIVE[np.maximum(k - 1, 0)]))
    for index in np.flatnonzero(nearest < _DOUBT):
        k[index] = _exact_k(float(uniform[index]), stream)
    return k


def _exact_k(uniform: float, stream: Stream) -> int:
    bits = _LazyUniform(uniform, stream)
    k = 0
    while not bits.is_below(partial(_cumulative, k)):
        k += 1
    return k


def _cumulative(k: int, bits: int) -> mpmath.mpf:
    terms = int(math.sqrt(2 * bits)) + k + 2
    masses = [mpmath.exp(-mpmath.mpf(i * i) / 2) for i in range(terms)]
    return mpmath.fsum(masses[: k + 1]) / mpmath.fsum(masses)


def _acceptance(sigma: int, k: int, j: int) -> Callable[[int], mpmath.mpf]:
    return lambda _: mpmath.exp(-mpmath.mpf(2 * k * sigma * j + j * j) / (2 * sigma * sigma))


def is_below(uniform: float, value: Callable[[int], mpmath.mpf], stream: Stream) -> bool:
    """Whether a uniform number, of which 53 bits are known, is below a real number, exactly.

    Args:
        uniform: A multiple of 2⁻⁵³.
        value: Gives the number to so many bits, within mpmath's working precision.
        stream: Further bits of the uniform number.
    """
    return _LazyUniform(uniform, stream).is_below(value)


class _LazyUniform:
    """A uniform number in [0, 1) whose bits are drawn as they are asked for."""

    def __init__(self, prefix: float, stream: Stream) -> None:
        self._numerator = int(prefix / _UNIT)
        self._bits = 53
        self._stream = stream

    def is_below(self, value: Callable[[int], mpmath.mpf]) -> bool:
        while True:
            precision = self._bits + 64
            with mpmath.workprec(precision):
                scaled = value(precision) * mpmath.mpf(2) ** self._bits
                slack = mpmath.mpf(2) ** -16
                if self._numerator + 1 <= scaled - slack:
                    return True
                if self._numerator >= scaled + slack:
                    return False
            self._numerator = (self._numerator << 64) | int(self._stream.uint64(1)[0])
            self._bits += 64
