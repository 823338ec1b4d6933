"""What a site computes in a step: the vector that will be masked and summed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hortus.learning.loader import Encoded
from hortus.privacy.gradients.engine import ClippedSum
from hortus.privacy.gradients.engines.base import LossBatch
from hortus.privacy.gradients.samplers.kinds import SAMPLERS
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise.randomness import RandomSource
from hortus.privacy.step import PrivateStep
from hortus.runtime.errors import HortusError
from hortus.strategies.kinds import strategy_of
from hortus.strategies.local_step import LocalStep

Stopwatch = Callable[[str], AbstractContextManager[None]]


def untimed(_phase: str) -> AbstractContextManager[None]:
    """A stopwatch that measures nothing."""
    return nullcontext()


class Trainer:
    """Private steps on one site's records.

    Args:
        encoding: The step's mechanism and fixed point.
        workbench: The warm model.
        records: The site's encoded records.
        randomness: Sampling, rounding and noise; each step and attempt has streams of its own.
        stopwatch: Times the phases "gradients" and "noise".
    """

    def __init__(
        self,
        encoding: PrivateStep,
        workbench: Workbench,
        records: Encoded,
        randomness: RandomSource,
        stopwatch: Stopwatch,
    ) -> None:
        self._encoding = encoding
        self._plan = encoding.contract
        self._strategy = strategy_of(encoding.contract)
        self._workbench = workbench
        self._records = records
        self._randomness = self._drawn_from = randomness
        self._stopwatch = stopwatch
        self._abandoned = threading.Event()

    def compute_on(self, records: Encoded) -> None:
        """Takes other records for the vectors after the one that is being computed."""
        self._records = records

    def abandon(self) -> None:
        """Ends, from another thread, the vector that is being computed, and any after it."""
        self._abandoned.set()

    def rehearse(self) -> None:
        """Sends a made-up unit through the model, with as many records and tokens as a unit may have.

        A plan that this machine has too little memory for fails here, whatever the records are.
        """
        encoded = self._workbench.loader.largest_unit(self._plan.privacy.max_records_per_unit or 1)
        with self._workbench.holding(np.zeros(self._encoding.dimension, np.float32)):
            self._summed(encoded, np.arange(len(encoded)), self._plan.privacy.clipping_norm)

    def vector(
        self, start: NDArray[np.float32], step: int, attempt: int, told: bytes = b""
    ) -> NDArray[np.int64]:
        """Returns this site's addend, int64[words], clipped, encoded and noised.

        Args:
            start: float32[words], what the step starts from: see `PrivateStep.start`.
            step: Number of the secure sum within the whole plan, from 0.
            attempt: Number of the attempt at it; fresh randomness for each.
            told: What the server said of the step; other randomness where that is another thing.

        Raises:
            HortusError: It was abandoned.
        """
        self._drawn_from = self._randomness.bound(told)
        encoding = self._encoding
        norm, adapter = encoding.clipping_norm(start), start[: encoding.dimension]
        with self._workbench.holding(adapter):
            return self._strategy.local(
                LocalStep(
                    encoding,
                    adapter,
                    summed=partial(self._clipped_sum, norm, step, attempt),
                    noised=partial(self._noised, step, attempt),
                    load=partial(self._workbench.space.write, self._workbench.model),
                )
            )

    def _noised(
        self, step: int, attempt: int, number: int, total: NDArray[np.float64], units: int
    ) -> NDArray[np.int64]:
        mechanism = self._encoding.mechanism
        assert mechanism is not None  # noqa: S101 - a step without noise has no release
        noise = self._drawn_from.stream("noise", step, attempt, number)
        with self._stopwatch("noise"):
            return mechanism.release(total, units, noise)

    def _clipped_sum(
        self, norm: float, step: int, attempt: int, number: int
    ) -> tuple[NDArray[np.float64], int]:
        """Returns what a fresh sample adds up to, float64[words], and how many units are in it."""
        chosen = sample_records(
            self._records.units,
            self._plan.training.sampling_rate,
            self._plan.privacy.max_records_per_unit,
            self._drawn_from.stream("sample", step, attempt, number),
            SAMPLERS.parse(self._plan.training.sampler),
        )
        with self._stopwatch("gradients"):
            clipped = self._summed(self._records, chosen, norm)
        units = len(np.unique(self._records.units[chosen]))
        return self._encoding.addend(clipped, norm), units

    def _summed(self, records: Encoded, chosen: NDArray[np.int64], norm: float) -> ClippedSum:
        batches = self._batches(records, chosen)
        clipping, grid = self._encoding.clipping(norm), self._encoding.grid
        return self._workbench.gradients.clipped_sum(batches, clipping, grid)

    def _batches(self, records: Encoded, chosen: NDArray[np.int64]) -> Iterator[LossBatch]:
        loader, size = self._workbench.loader, self._plan.training.micro_batch
        for batch in loader.batches(records, chosen, size):
            if self._abandoned.is_set():
                raise HortusError("the step was abandoned because this site is being stopped")
            yield batch
