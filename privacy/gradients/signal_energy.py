"""How much of what a server sees is signal: worked out from noisy sums, which are public, and costs no ε."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

# A signal weaker than this many standard deviations of the noise's energy cannot be distinguished from no signal.
_DEVIATIONS = 2.0


@dataclass(frozen=True, slots=True)
class Energy:
    """Squared norms of noisy gradients, added over steps.

    Attributes:
        total: Σ‖signal + noise‖², as seen.
        noise: What the noise alone is expected to come to.
        variance: Of the noise's part.
    """

    total: float = 0.0
    noise: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, gradient: NDArray[np.float64], deviation: float) -> Self:
        """Measures one step.

        Args:
            gradient: float64[d], with its noise.
            deviation: Standard deviation of the noise in each coordinate.
        """
        size, noise = len(gradient), deviation**2 * len(gradient)
        return cls(float(gradient @ gradient), noise, 2 * noise**2 / size)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.total + other.total, self.noise + other.noise, self.variance + other.variance
        )

    @property
    def noise_to_signal(self) -> float | None:
        """Root of the noise's energy over the signal's; None without noise.

        The signal's is the rest of what was seen. Where that is lost in the noise, the result is the least
        ratio that the signal may have, by two standard deviations.
        """
        if self.noise == 0:
            return None
        signal = max(self.total - self.noise, _DEVIATIONS * math.sqrt(self.variance))
        return math.sqrt(self.noise / signal)
