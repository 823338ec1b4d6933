"""A clipping norm that follows a quantile of the units' norms, at a stated price.

Andrew et al. (2021, Algorithm 1): each step also counts, with noise, the units whose gradient is no
longer than C, and C moves until their share is the quantile γ. Here the count is one more coordinate
of the vector that is summed: a unit adds (g·min(1, C/‖g‖)/C, w·(b − γ)) with b = 1 where ‖g‖ ≤ C and else
0. The first part has norm 1 at most and the second w·max(γ, 1 − γ), whatever C is. So it is one
Gaussian release of sensitivity √(1 + w²·max(γ, 1 − γ)²); the noise on the gradient grows by that
factor, which is the split of their Theorem 1, and the claim holds for every C that a server may name.
b − γ, rather than b, makes the fixed point right without knowing how many units there are.
"""

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hortus.protocol.plan import Clipping


@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """The numbers of a plan's `adaptive` rule.

    Attributes:
        quantile: γ, the share of units to be left uncut.
        rate: η.
        count_weight: w.
        smallest: Least C.
        largest: Largest C.
    """

    quantile: float
    rate: float
    count_weight: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, clipping: Clipping) -> Self:
        """Reads a plan's section, whose rule is `adaptive`."""
        return cls(**{field.name: getattr(clipping, field.name) for field in fields(cls)})

    @property
    def unit_norm(self) -> float:
        """The largest L2 norm of what one unit adds to the sum."""
        return math.hypot(1, self.count_weight * max(self.quantile, 1 - self.quantile))

    def count(self, norms: NDArray[np.float64], clipping_norm: float, grid: float) -> float:
        """Returns w·Σ(b − γ), each unit's term cut to a multiple of the grid.

        Args:
            norms: float64 (units,), before clipping.
            clipping_norm: C.
            grid: A power of two.
        """
        below = int((norms <= clipping_norm).sum())
        short = int(self.count_weight * (1 - self.quantile) / grid)
        long = int(-self.count_weight * self.quantile / grid)
        return (below * short + (len(norms) - below) * long) * grid

    def next_norm(self, clipping_norm: float, count: float, nominal: float) -> np.float32:
        """Returns C·exp(−η·Σ(b − γ)/m) within the bounds, as the number that sites are sent.

        Args:
            clipping_norm: C.
            count: The noisy w·Σ(b − γ).
            nominal: m, the public number of units that a sum is taken to be over.
        """
        excess = min(1.0, max(-1.0, count / (self.count_weight * nominal)))
        moved = clipping_norm * math.exp(-self.rate * excess)
        return np.float32(min(self.largest, max(self.smallest, moved)))
