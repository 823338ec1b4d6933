"""A sum within one process: of the same vectors as a secure sum, without the masks, which cancel."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hortus.client.trainer import Trainer


class LocalSum:
    """Has trainers compute, one after another, and adds up in the ring; see `strategies.loop.AddUp`.

    Args:
        trainers: By the names of their sites.
        words: Of a vector.
    """

    def __init__(self, trainers: Mapping[str, Trainer], words: int) -> None:
        self._trainers = trainers
        self._words = words

    def __call__(
        self, number: int, start: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
        """Returns the ring sum, uint32[words], and the sites."""
        total = np.zeros(self._words, np.uint32)
        for trainer in self._trainers.values():
            total += trainer.vector(start, number, attempt=0).astype(np.uint32)
        return total, tuple(self._trainers)
