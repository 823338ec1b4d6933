"""Poisson sampling: each unit tosses a coin of its own in each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hortus.privacy.gradients.samplers.base import Sampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hortus.privacy.noise.randomness import Stream


class PoissonSampler(Sampler):
    """Each unit joins a step with probability q, independently (Mironov et al. 2019)."""

    kind: Literal["poisson"] = "poisson"

    def joining(self, units: int, rate: float, stream: Stream) -> NDArray[np.bool_]:
        """Returns one coin a unit: see `Sampler`."""
        return stream.bernoulli(rate, units)
