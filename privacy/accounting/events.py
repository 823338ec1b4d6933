"""Releases as data: accountants are functions of their multiset."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hortus.runtime.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class GaussianEvent:
    """One release of a Poisson-subsampled Gaussian.

    Attributes:
        sampling_rate: q in (0, 1].
        noise_multiplier: Standard deviation over L2 sensitivity.
    """

    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not (0 < self.sampling_rate <= 1 and 0 < self.noise_multiplier < math.inf):
            raise UsageError(f"no such mechanism: {self}")


History = Mapping[GaussianEvent, int]
