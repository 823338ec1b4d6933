"""A sum in one process wraps around as the ring does."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hortus.simulation.local_sum import LocalSum


class Fixed:
    """A trainer whose vector is known."""

    def __init__(self, *words: int) -> None:
        self._words = np.array(words, np.int64)

    def vector(self, start: Any, step: int, attempt: int) -> NDArray[np.int64]:
        assert attempt == 0
        return self._words + step


@pytest.mark.parametrize(
    ("vectors", "step", "total"),
    [
        ([(1, 2)], 0, [1, 2]),
        ([(1, 2)], 5, [6, 7]),
        ([(-1, 0)], 0, [2**32 - 1, 0]),
        ([(2**31, 7), (2**31, 7)], 0, [0, 14]),
        ([(-3, 1), (2, -1), (1, 0)], 0, [0, 0]),
    ],
)
def test_vectors_are_added_modulo_the_ring(
    vectors: list[tuple[int, ...]], step: int, total: list[int]
) -> None:
    trainers: Any = {f"site-{n}": Fixed(*words) for n, words in enumerate(vectors)}
    found, sites = LocalSum(trainers, 2)(step, np.zeros(2, np.float32))
    assert found.dtype == np.uint32
    assert found.tolist() == total
    assert sites == tuple(trainers)
