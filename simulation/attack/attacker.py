"""What an attacker sees of a training, and what it makes of that."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.learning.loader import Batch
from hortus.privacy.gradients.clipping.base import ClippingAt
from hortus.privacy.gradients.engine import FINE_GRID, ClippedSum, PerUnitGradients
from hortus.privacy.gradients.engines.base import LossBatch
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.privacy.step import PrivateStep

_REFINEMENTS = 20
_LEAST_NOISE = 1e-14


class WatchedGradients(PerUnitGradients):
    """The engine, which tells the attacker what the sites added, and which records joined.

    Attributes:
        total: float64[words], the clipped sums of this step.
        joined: int64 (records,) for each sum, the positions of those that joined from where the
            canaries begin.
    """

    def __init__(self, model: torch.nn.Module, encoding: PrivateStep, first_canary: int) -> None:
        super().__init__(model, ENGINES.parse(encoding.contract.privacy.engine))
        self._encoding = encoding
        self._first_canary = first_canary
        self.begin(math.nan)

    def begin(self, norm: float) -> None:
        """Starts a step with a clipping norm."""
        self._norm = norm
        self.total = np.zeros(self._encoding.words)
        self.joined: list[NDArray[np.int64]] = []

    def clipped_sum(
        self, batches: Iterable[LossBatch], clipping: ClippingAt, grid: float = FINE_GRID
    ) -> ClippedSum:
        """See `PerUnitGradients`."""
        kept = list(batches)
        result = super().clipped_sum(kept, clipping, grid)
        self.total += self._encoding.addend(result, self._norm)
        index = [batch.index for batch in kept if isinstance(batch, Batch)]
        positions = np.concatenate([*index, np.zeros(0, np.int64)])
        self.joined.append(positions[positions >= self._first_canary])
        return result


class Regression:
    """How much of each canary is in what was seen: the mean of a normal posterior.

    How large the noise is, is learnt from what the canaries leave unexplained, not from the plan: it
    is the plan that is doubted.

    Args:
        canaries: m.
        rate: A canary that is there is in a step with this probability.
    """

    def __init__(self, canaries: int, rate: float) -> None:
        self._gram = np.zeros((canaries, canaries))
        self._products = np.zeros(canaries)
        self._squares = 0.0
        self._size = 0
        self._mean = rate / 2

    def add(self, rows: NDArray[np.float64], seen: NDArray[np.float64]) -> None:
        """Takes in a step: the canaries' gradients, float64 (m, d), and what was seen, float64[d]."""
        self._gram += rows @ rows.T
        self._products += rows @ seen
        self._squares += float(seen @ seen)
        self._size += len(seen)

    def scores(self) -> NDArray[np.float64]:
        """Returns the posterior means, float64[m]; the prior is rate/2 ± rate/2."""
        noise = self._squares / self._size
        scores = np.full(len(self._gram), self._mean)
        for _ in range(_REFINEMENTS):
            ridge = max(noise, _LEAST_NOISE) / self._mean**2
            left = self._products + ridge * self._mean
            scores = np.linalg.solve(self._gram + ridge * np.eye(len(self._gram)), left)
            explained = 2 * scores @ self._products - scores @ self._gram @ scores
            noise = (self._squares - float(explained)) / self._size
        return scores
