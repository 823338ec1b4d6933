"""An exact, vectorised sampler of symmetric laws on the integers whose mass falls away from 0.

Let ρ(n) be the mass of n over that of 0. In the spirit of Karney (2016, Algorithm D), |n| = kw + j: the
bin k is drawn with mass ∝ ρ(kw), j is uniform on {0, …, w−1}, and n is kept with probability
ρ(kw + j)/ρ(kw). A random sign is added, and −0 is not kept. The width w is a power of two between
σ/32 and σ/16, or 1: so 98 % are kept of a bell of standard deviation σ, and j needs no division.

One 64-bit word makes a proposal: its lowest 16 bits are the first bits of the uniform number that k
is drawn with, then come j, the first bits of the uniform number that decides, and the sign. A table
says k where those 16 bits leave no choice, and every bin has a probability with which all of its j
are kept. The few per cent for which that does not suffice get further bits.

Exactness: a comparison of a uniform number with a real probability is decided by known bits and
float64 only where the two are at least 2⁻⁴⁵ apart; float64 evaluates all probabilities here with an
error under 2⁻⁴⁶. Where they are closer, more random bits and as many digits of the probability as it
takes settle it. So floating point decides nothing that it cannot decide correctly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Protocol

import mpmath
import numpy as np
from numpy.typing import NDArray

from hortus.privacy.noise.randomness import Stream

MAX_SIGMA = 2**40
_UNIT = 2.0**-53
_DOUBT = 2.0**-45
WIDEST = 45.0  # e to minus this is beyond the table; there, bins are found one by one
_GUIDE_BITS = 16
_UNDECIDED = np.uint16(0xFFFF)
_CHUNK = 2**16  # proposals at a time: what they need stays in the cache


class Law(Protocol):
    """A law to sample; equal laws are equal objects."""

    def __hash__(self) -> int:
        """Tables are kept for a law."""
        ...

    @property
    def sigma(self) -> int:
        """The standard deviation, nearly, from 1 to 2⁴⁰."""
        ...

    def ratio(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns ρ(end)/ρ(start) for 0 ≤ start ≤ end ≤ `reach(45)` + σ, off by less than 2⁻⁴⁶.

        Args:
            start: Integers, float64[n].
            end: Integers, float64[n], no further than σ/16 from `start`, or `start` is 0.
        """
        ...

    def exactly(self, n: int, bits: int) -> mpmath.mpf:
        """Returns ρ(n) for any n ≥ 0, to this many bits and some more."""
        ...

    def reach(self, nats: float) -> int:
        """Returns a number at and beyond which lies at most e^−nats of the mass, on each side."""
        ...


def check_sigma(sigma: int) -> None:
    """Refuses a parameter that the sampler does not cover.

    Raises:
        ValueError: σ is not from 1 to 2⁴⁰.
    """
    if not 1 <= sigma <= MAX_SIGMA:
        raise ValueError(f"sigma is {sigma}, not from 1 to {MAX_SIGMA}")


def sample(law: Law, size: int, stream: Stream) -> NDArray[np.int64]:
    """Draws independent numbers of a law.

    Args:
        law: The law.
        size: How many.
        stream: Uniform bits, used for nothing else.

    Returns:
        int64[size].
    """
    bins = _bins(law)
    drawn, open_ = _propose(bins, size, stream)
    while open_.size:
        drawn[open_], again = _propose(bins, len(open_), stream)
        open_ = open_[again]
    return drawn


@dataclass(frozen=True, slots=True)
class _Bins:
    """What depends on the law alone.

    Attributes:
        law: The law.
        width_bits: log₂ w.
        cumulative: float64[bins], the probability of the bins up to each.
        guide: uint16[2¹⁶], the bin that these first bits leave; `_UNDECIDED` where there are two.
        certain: uint64[bins], a word that is below this when shifted by one, its sign out, is kept
            whatever its j. The last stands for all bins beyond: 0.
    """

    law: Law
    width_bits: int
    cumulative: NDArray[np.float64]
    guide: NDArray[np.uint16]
    certain: NDArray[np.uint64]

    @property
    def decision_bits(self) -> int:
        """Bits of a word that are the first ones of the number that decides."""
        return 63 - _GUIDE_BITS - self.width_bits

    def cumulative_exactly(self, k: int, bits: int) -> mpmath.mpf:
        """Probability of the bins up to k, to this many bits."""
        cumulative = _cumulative(self.law, self.width_bits, bits)
        return cumulative[min(k, len(cumulative) - 1)]

    def acceptance_exactly(self, magnitude: int, bits: int) -> mpmath.mpf:
        """ρ(kw + j)/ρ(kw), to this many bits."""
        edge = magnitude >> self.width_bits << self.width_bits
        return self.law.exactly(magnitude, bits) / self.law.exactly(edge, bits)


@lru_cache(maxsize=16)
def _bins(law: Law) -> _Bins:
    width_bits = max(0, law.sigma.bit_length() - 5)
    width = 1 << width_bits
    edges = np.arange(math.ceil(law.reach(WIDEST) / width) + 1, dtype=np.float64) * width
    # Added as integers: the errors of hundreds of float additions would add up to a doubt.
    masses = [int(mass * 2.0**100) for mass in law.ratio(np.zeros_like(edges), edges)]
    total = sum(masses)
    cumulative = np.array([part / total for part in accumulate(masses)])
    # Cells of the guide from `first` up to `last` have this bin only.
    first = np.ceil((np.concatenate([[0.0], cumulative[:-1] + _DOUBT])) * 2**_GUIDE_BITS)
    last = np.floor((cumulative - _DOUBT) * 2**_GUIDE_BITS)
    guide = np.full(2**_GUIDE_BITS, _UNDECIDED)
    for k in np.flatnonzero(first < last):
        guide[int(first[k]) : int(last[k])] = k
    least = law.ratio(edges, edges + (width - 1)) - _DOUBT
    least[-1] = 0
    decision_bits = 63 - _GUIDE_BITS - width_bits
    certain = np.floor(np.maximum(least, 0) * 2.0**decision_bits).astype(np.uint64)
    return _Bins(law, width_bits, cumulative, guide, certain << np.uint64(64 - decision_bits))


@lru_cache(maxsize=16)
def _cumulative(law: Law, width_bits: int, bits: int) -> tuple[mpmath.mpf, ...]:
    """Returns the probabilities of the bins up to each; what is left out is below 2·e^(−bits)."""
    count = 2 + (law.reach(bits) >> width_bits)
    with mpmath.workprec(bits + 16):
        masses = [law.exactly(k << width_bits, bits) for k in range(count)]
        total = mpmath.fsum(masses)
        return tuple(mass / total for mass in accumulate(masses))


def _propose(bins: _Bins, size: int, stream: Stream) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Makes proposals; returns them, int64[size], and the places of those that are not kept."""
    values, refused = np.empty(size, np.int64), [np.zeros(0, np.int64)]
    for start in range(0, size, _CHUNK):
        part = values[start : start + _CHUNK]
        words = stream.uint64(len(part))
        k = bins.guide.take(words.astype(np.uint16))
        undecided = np.flatnonzero(k == _UNDECIDED)
        k[undecided] = _find_bins(bins, words[undecided], stream)
        j = (words >> np.uint64(_GUIDE_BITS)) & np.uint64((1 << bins.width_bits) - 1)
        magnitude = ((k.astype(np.uint64) << np.uint64(bins.width_bits)) | j).view(np.int64)
        negative = words.view(np.int64) >> 63  # 0 or −1
        part[:] = (magnitude ^ negative) - negative
        refused.append(start + np.flatnonzero((magnitude | ~negative) == 0))

        certain = bins.certain.take(k, mode="clip")
        rest = np.flatnonzero((words << np.uint64(1)) >= certain)
        kept = _decide(bins, words[rest], magnitude[rest], stream)
        refused.append(start + rest[~kept])
    return values, np.unique(np.concatenate(refused))


def _find_bins(bins: _Bins, words: NDArray[np.uint64], stream: Stream) -> NDArray[np.uint16]:
    """Draws the bins of words whose first bits leave more than one, with 53 bits or more."""
    more = stream.uint64(len(words)) >> np.uint64(11 + _GUIDE_BITS)
    known = (words & np.uint64(2**_GUIDE_BITS - 1)) << np.uint64(53 - _GUIDE_BITS)
    uniform = (known | more).astype(np.float64) * _UNIT
    low = np.searchsorted(bins.cumulative, uniform - _DOUBT, side="right")
    high = np.searchsorted(bins.cumulative, uniform + _DOUBT, side="right")
    doubtful = np.flatnonzero((low != high) | (high == len(bins.cumulative)))
    for index in doubtful:
        bits = _LazyUniform(float(uniform[index]), stream)
        while not bits.is_below(partial(bins.cumulative_exactly, int(low[index]))):
            low[index] += 1
    return low.astype(np.uint16)


def _decide(
    bins: _Bins, words: NDArray[np.uint64], magnitude: NDArray[np.int64], stream: Stream
) -> NDArray[np.bool_]:
    """Returns which proposals are kept, with 53 bits or more."""
    t = bins.decision_bits
    known = (words << np.uint64(1)) >> np.uint64(64 - t) << np.uint64(53 - t)
    more = stream.uint64(len(words)) >> np.uint64(11 + t)
    uniform = (known | more).astype(np.float64) * _UNIT
    k = magnitude >> bins.width_bits
    edge = k << bins.width_bits
    probability = bins.law.ratio(edge.astype(np.float64), magnitude.astype(np.float64))
    kept: NDArray[np.bool_] = uniform < probability
    beyond = k >= len(bins.certain) - 1
    for index in np.flatnonzero((np.abs(uniform - probability) < _DOUBT) | beyond):
        exactly = partial(bins.acceptance_exactly, int(magnitude[index]))
        kept[index] = is_below(float(uniform[index]), exactly, stream)
    return kept


def is_below(uniform: float, value: Callable[[int], mpmath.mpf], stream: Stream) -> bool:
    """Whether a uniform number, of which 53 bits are known, is below a real number, exactly.

    Args:
        uniform: A multiple of 2⁻⁵³.
        value: Gives the number to this many bits, within mpmath's working precision.
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
