"""The loop of every training: federated, at one site alone, or under attack, it takes the same steps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.step import PrivateStep
from hortus.strategies.server_state import ServerState

# From a sum's number and what it starts from, float32[words], to the ring sum, uint32[words], and the
# sites whose vectors are in it.
AddUp = Callable[[int, NDArray[np.float32]], tuple[NDArray[np.uint32], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was taken.

    Attributes:
        number: Of the sum.
        start: float32[words], what the sites' vectors started from.
        total: uint32[words], the ring sum.
        sites: Whose vectors are in it.
    """

    number: int
    start: NDArray[np.float32]
    total: NDArray[np.uint32]
    sites: tuple[str, ...]


def steps(
    trained: ServerState, encoding: PrivateStep, numbers: Iterable[int], add_up: AddUp
) -> Iterator[Step]:
    """Takes steps; yields each when it has been taken.

    Args:
        trained: Where training stands; it moves with each step.
        encoding: The numbers of a step.
        numbers: Of the sums.
        add_up: Has the sites' vectors computed and added up.

    Raises:
        HortusError: The adapter is not finite any more.
    """
    for number in numbers:
        start = trained.start(encoding)
        total, sites = add_up(number, start)
        trained.step(encoding, total, len(sites))
        yield Step(number, start, total, sites)
