"""A sum within one process: of the same vectors as a secure sum, without the masks, which cancel."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from hortus.client.trainer import Trainer


def ring_sum(vectors: Iterable[NDArray[np.int64]], words: int) -> NDArray[np.uint32]:
    """Returns the sum modulo 2³², uint32[words], one vector at a time.

    Args:
        vectors: int64[words] each.
        words: Of a vector.
    """
    total = np.zeros(words, np.uint32)
    for vector in vectors:
        total += vector.astype(np.uint32)
    return total


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
        vectors = (own.vector(start, number, attempt=0) for own in self._trainers.values())
        return ring_sum(vectors, self._words), tuple(self._trainers)
