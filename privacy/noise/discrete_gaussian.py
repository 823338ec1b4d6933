"""The discrete Gaussian, sampled exactly.

With integer parameter σ it has mass ∝ ρ(n) = exp(−n²/2σ²) on the integers (Canonne, Kamath and Steinke
2020, Definition 1).
"""

import math
from dataclasses import dataclass

import mpmath
import numpy as np
from numpy.typing import NDArray

from hortus.privacy.noise import exact_sampler
from hortus.privacy.noise.randomness import Stream


def sample(sigma: int, size: int, stream: Stream) -> NDArray[np.int64]:
    """Draws independent discrete Gaussians.

    Args:
        sigma: σ, from 1 to 2⁴⁰.
        size: How many.
        stream: Uniform bits, used for nothing else.

    Returns:
        int64[size].

    Raises:
        ValueError: σ is out of range.
    """
    return exact_sampler.sample(DiscreteGaussian(sigma), size, stream)


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """The law, as the sampler asks for it (`exact_sampler.Law`)."""

    sigma: int

    def __post_init__(self) -> None:
        exact_sampler.check_sigma(self.sigma)

    def ratio(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns ρ(end)/ρ(start)."""
        x = (end - start) / self.sigma
        ratio: NDArray[np.float64] = np.exp(-x * (2 * (start / self.sigma) + x) / 2)
        return ratio

    def exactly(self, n: int, bits: int) -> mpmath.mpf:
        """Returns ρ(n) to this many bits."""
        with mpmath.workprec(bits + 32):
            return mpmath.exp(-mpmath.mpf(n**2) / (2 * self.sigma**2))

    def reach(self, nats: float) -> int:
        """Returns where the tail has e^−nats of the mass."""
        return math.ceil(self.sigma * math.sqrt(2 * nats))
