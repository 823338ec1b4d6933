"""What a sampler is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from hortus.protocol.section import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hortus.privacy.noise.randomness import Stream


class Sampler(Kind):
    """Draws who joins a private step.

    Every step is charged as a Gaussian, subsampled by Poisson sampling with `training.sampling_rate`, and
    nothing that a sampler says can lower that. A sampler is sound only where this bounds what it does: each unit joins
    with that probability at most, whatever the other units are, and independently of them and of other steps.
    """

    @abstractmethod
    def joining(self, units: int, rate: float, stream: Stream) -> NDArray[np.bool_]:
        """Returns who joins a step, bool (units,).

        Args:
            units: How many there are.
            rate: `training.sampling_rate`, q.
            stream: Random numbers for this step, used for nothing before.
        """
