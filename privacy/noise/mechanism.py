"""The mechanism of a private step: a clipped sum, rounded to integers, plus discrete Gaussian noise.

Integer sensitivity. A client's clipped sum G is scaled and rounded as floor(scale·G + u) with a
uniform dither u. For a fixed u, adding or removing one unit with gradient g moves coordinate i by
at most ⌈scale·|gᵢ|⌉ < scale·|gᵢ| + 1, so the L2 distance is below scale·‖g‖ + √d ≤ scale·C + √d,
with certainty: each unit adds multiples of a grid 2²⁰ times finer than the integers, and the dither is
one too, so that float64 computes all of this without rounding. A mixture over u is no less private, by joint convexity,
so neither the quality of
the dither nor the conditional re-drawing of Kairouz et al. (2021, Section 4.1) is needed: with a
fine scale √d is a fraction of a percent.

Noise. A discrete Gaussian N_Z(0, s²) added to integers is, up to a likelihood factor within
1 ± 4e^(−2π²τ²) for each coordinate, post-processing of the continuous Gaussian of variance s² − τ²;
with τ = 3 that factor is 1 ± e^(−176). So the privacy loss of the continuous, Poisson-subsampled
Gaussian bounds ours in any dimension (docs/mathematics.md has the proof), at an effective noise
multiplier of √(shares·(s² − 9))/sensitivity.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.noise import discrete_gaussian
from hortus.privacy.noise.randomness import Stream
from hortus.runtime.errors import HortusError, UsageError

_SMOOTHING_VARIANCE = 9  # τ²
_TAIL = 12  # standard deviations; a wrap is less likely than 4e-33 for each coordinate
_MAX_INFLATION = 0.1
_WIDEST_RING = 32
_LEAST_PLAIN_SCALE = 2**12
_EXACT = 2.0**53  # float64 holds every integer up to here
_FINER = 20  # bits of the grid, and of the dither, below one ring unit
_ROUNDING = 1e-6  # what taking a norm of d squares can be off by


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Real vectors as ring elements: `scale` units for 1.0, at most `bound` in magnitude.

    The ring is the integers modulo 2 to the power of `ring_bits`.
    """

    scale: int
    bound: float
    ring_bits: int = 32

    def __post_init__(self) -> None:
        if not (_is_power_of_two(self.scale) and 0 < self.bound < math.inf):
            raise UsageError(f"no such encoding: {self}")

    @classmethod
    def for_magnitude(cls, bound: float, cohort: int, ring_bits: int = 32) -> "FixedPoint":
        """Chooses the largest power of two with which this many vectors cannot wrap the ring.

        Raises:
            UsageError: They wrap it, or are rounded more coarsely than to 1/4096.
        """
        scale = _largest_power_of_two(2 ** (ring_bits - 1) / (cohort * (bound + 1)))
        if scale < _LEAST_PLAIN_SCALE:
            raise UsageError(
                f"the updates of {cohort} sites would be rounded to 1/{scale} in a ring of {ring_bits} bits",
                where="privacy.ring_bits",
                remedy="Set it to 32, or have fewer sites in a sum.",
            )
        return cls(scale, bound, ring_bits)

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rounds float64[d] to int64[d]; coordinates beyond the bound are cut to it.

        Raises:
            ValueError: A value is not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError("the vector is not finite")
        return np.rint(np.clip(values, -self.bound, self.bound) * self.scale).astype(np.int64)

    def decode(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Lifts ring elements, uint32[d], to the nearest reals around zero, float64[d]."""
        return _lift(total, self.ring_bits) / self.scale


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One step's mechanism.

    Attributes:
        clipping_norm: C; every unit's gradient has at most this L2 norm.
        noise_multiplier: σ/C that the noise of `shares` sites must reach together.
        dimension: d.
        scale: Ring units for 1.0.
        shares: Sites whose noise is counted on: 1 for local noise.
        ring_bits: Vectors are added modulo 2 to this power.
    """

    clipping_norm: float
    noise_multiplier: float
    dimension: int
    scale: int
    shares: int
    ring_bits: int = 32

    def __post_init__(self) -> None:
        real = 0 < self.clipping_norm < math.inf and 0 < self.noise_multiplier < math.inf
        whole = min(self.dimension, self.shares) >= 1 and _is_power_of_two(self.scale)
        if not (real and whole):
            raise UsageError(f"no such mechanism: {self}")

    @classmethod
    def design(
        cls,
        clipping_norm: float,
        noise_multiplier: float,
        dimension: int,
        shares: int,
        cohort: int,
        max_batch: int,
        ring_bits: int = 32,
    ) -> "Mechanism":
        """Chooses the finest scale that the ring has room for.

        Args:
            clipping_norm: C.
            noise_multiplier: σ/C.
            dimension: d.
            shares: Sites whose noise is counted on.
            cohort: Sites in a sum.
            max_batch: Units that a site may sample in a step.
            ring_bits: Vectors are added modulo 2 to this power.

        Raises:
            UsageError: The ring has no room, or rounding would cost more than a tenth of the
                sensitivity.
        """
        spread = _TAIL * noise_multiplier * clipping_norm * (1 + _MAX_INFLATION)
        room = 2 ** (ring_bits - 1) - _TAIL * cohort * (_SMOOTHING_VARIANCE + 2)
        scale = _largest_power_of_two(
            room / (cohort * max_batch * clipping_norm + spread * math.sqrt(cohort / shares))
        )
        if math.sqrt(dimension) > _MAX_INFLATION * scale * clipping_norm:
            raise UsageError(
                f"a ring of {ring_bits} bits has no room for {cohort} sites, batches of {max_batch} "
                f"and {dimension} parameters: rounding would cost more than a tenth of the sensitivity",
                where="privacy.ring_bits" if ring_bits < _WIDEST_RING else "training",
                remedy="Set ring_bits to 32."
                if ring_bits < _WIDEST_RING
                else "Lower nominal_units or sampling_rate, or the adapter's rank.",
            )
        return cls(clipping_norm, noise_multiplier, dimension, scale, shares, ring_bits)

    @property
    def grid(self) -> float:
        """What each unit's contribution is a multiple of."""
        return 2.0**-_FINER / self.scale

    @property
    def sensitivity(self) -> float:
        """L2 distance that one unit can move the rounded sum, in ring units."""
        return self.scale * self.clipping_norm + math.sqrt(self.dimension)

    @property
    def share_std(self) -> int:
        """Integer parameter s of each site's noise: the smallest that reaches the multiplier."""
        variance = (self.noise_multiplier * self.sensitivity) ** 2 / self.shares
        return math.ceil(math.sqrt(variance + _SMOOTHING_VARIANCE) * (1 + 1e-12))

    @property
    def effective_noise_multiplier(self) -> float:
        """Multiplier of the continuous Gaussian that the step is accounted as."""
        variance = self.shares * (self.share_std**2 - _SMOOTHING_VARIANCE)
        return math.sqrt(variance) / self.sensitivity

    def release(
        self, clipped_sum: NDArray[np.float64], units: int, stream: Stream
    ) -> NDArray[np.int64]:
        """Rounds and noises a clipped sum.

        Args:
            clipped_sum: float64[d], multiples of `grid`; each unit contributed at most C in L2 norm.
            units: How many contributed.
            stream: Dither and noise; used for no other release.

        Returns:
            int64[d], in ring units.

        Raises:
            ValueError: Wrong shape or dtype, not finite, not multiples of the grid, or so large
                that float64 would round them.
            HortusError: This many units cannot have produced these integers: one was not clipped.
        """
        if clipped_sum.shape != (self.dimension,) or clipped_sum.dtype != np.float64:
            raise ValueError(f"expected float64[{self.dimension}]")
        points = clipped_sum / self.grid
        if not (np.abs(points) < _EXACT).all() or (points != np.rint(points)).any():
            raise ValueError("the clipped sum is not finite, too large to round, or off the grid")
        rounded = self.round(clipped_sum, stream.uniform(self.dimension, bits=_FINER))
        self._check_norm(rounded, units)
        return rounded + discrete_gaussian.sample(self.share_std, self.dimension, stream)

    def round(self, values: NDArray[np.float64], dither: NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns ⌊scale·values + dither⌋, int64[d].

        For one and the same dither, two sums that differ by a unit differ by at most `sensitivity`
        in L2 norm here, as integers.

        Args:
            values: float64[d], multiples of `grid`.
            dither: float64[d], uniform multiples of 2⁻²⁰ in [0, 1).
        """
        return np.floor(values * self.scale + dither).astype(np.int64)

    def _check_norm(self, rounded: NDArray[np.int64], units: int) -> None:
        """Refuses a rounded sum whose norm is larger than its units could have produced.

        It costs one pass, and finds a step that was not clipped, or not unit by unit, before a bit
        of it has left.
        """
        reach = units * self.scale * self.clipping_norm + math.sqrt(self.dimension if units else 0)
        if np.linalg.norm(rounded.astype(np.float64)) > reach * (1 + _ROUNDING):
            raise HortusError(
                f"the clipped sum has a larger norm than units of norm {self.clipping_norm:g} can give it, so "
                "something was not clipped",
                remedy="Nothing was sent. This is a defect of Hortus: please report it.",
            )

    def decode(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Lifts ring elements, uint32[d], to the nearest reals around zero, float64[d]."""
        return _lift(total, self.ring_bits) / self.scale


def _lift(total: NDArray[np.uint32], bits: int) -> NDArray[np.float64]:
    """Returns the integers from −2^(bits−1) up to 2^(bits−1) that are these modulo 2^bits."""
    unused = 32 - bits
    return ((total << unused).view(np.int32) >> unused).astype(np.float64)


def _largest_power_of_two(limit: float) -> int:
    if not limit >= 1:
        raise UsageError(
            "the ring has no room for the sum, however coarsely it is rounded",
            where="training",
            remedy="Lower nominal_units, sampling_rate, clipping_norm or the number of sites.",
        )
    return 1 << math.floor(math.log2(limit))


def _is_power_of_two(number: int) -> bool:
    return number >= 1 and number & (number - 1) == 0
