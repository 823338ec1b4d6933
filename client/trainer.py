"""What a site computes in a step: the vector that will be masked and summed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.learning.data.records import Records
from hortus.learning.tasks.classification import Encoded
from hortus.privacy.gradients.engine import ClippedSum
from hortus.privacy.gradients.engines.base import LossBatch
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise.mechanism import Mechanism
from hortus.privacy.noise.randomness import RandomSource
from hortus.privacy.step import StepEncoding, nominal_batch
from hortus.protocol.plan import Update
from hortus.runtime.errors import HortusError
from hortus.strategies.server_optimizer import build_optimizer

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
        encoding: StepEncoding,
        workbench: Workbench,
        records: Encoded,
        randomness: RandomSource,
        stopwatch: Stopwatch,
    ) -> None:
        self._encoding = encoding
        self._plan = encoding.contract
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
        count = self._plan.privacy.max_records_per_unit or 1
        text = " ".join(["a"] * self._plan.task.max_length)
        made_up = Records((text,) * count, np.zeros(count, np.int64), units=("one",) * count)
        encoded = self._workbench.task.encode(made_up)
        with self._workbench.holding(np.zeros(self._encoding.dimension, np.float32)):
            self._summed(encoded, np.arange(count), self._plan.privacy.clipping_norm)

    def vector(
        self, start: NDArray[np.float32], step: int, attempt: int, told: bytes = b""
    ) -> NDArray[np.int64]:
        """Returns this site's addend, int64[words], clipped, encoded and noised.

        Args:
            start: float32[words], what the step starts from: see `StepEncoding.start`.
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
            if self._plan.training.update is Update.DELTA:
                return self._delta(adapter, norm, step, attempt)
            if encoding.mechanism is None:
                total, _ = self._clipped_sum(norm, step, attempt, 0)
                return encoding.fixed_point.encode(total / nominal_batch(self._plan))
            return self._private_sum(encoding.mechanism, norm, step, attempt, 0)

    def _delta(
        self, adapter: NDArray[np.float32], norm: float, step: int, attempt: int
    ) -> NDArray[np.int64]:
        config = self._plan.training.local_optimizer
        assert config is not None  # noqa: S101 - the schema ties it to update: delta
        parameter = torch.nn.Parameter(torch.from_numpy(adapter.copy()))
        optimizer = build_optimizer(config, [parameter])
        for number in range(self._plan.training.steps_per_round):
            gradient = self._local_gradient(norm, step, attempt, number)
            parameter.grad = torch.from_numpy(gradient).to(torch.float32)
            optimizer.step()
            self._workbench.space.write(self._workbench.model, parameter.detach().numpy())
        delta = parameter.detach().numpy().astype(np.float64) - adapter.astype(np.float64)
        return self._encoding.fixed_point.encode(delta)

    def _local_gradient(
        self, norm: float, step: int, attempt: int, number: int
    ) -> NDArray[np.float64]:
        mechanism = self._encoding.mechanism
        if mechanism is None:
            total, _ = self._clipped_sum(norm, step, attempt, number)
        else:
            ring = self._private_sum(mechanism, norm, step, attempt, number)
            total = mechanism.decode(ring.astype(np.uint32))
        return self._encoding.mean_gradient(total, sites=1)

    def _private_sum(
        self, mechanism: Mechanism, norm: float, step: int, attempt: int, number: int
    ) -> NDArray[np.int64]:
        total, units = self._clipped_sum(norm, step, attempt, number)
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
        task, size = self._workbench.task, self._plan.training.micro_batch
        for batch in task.batches(records, chosen, size):
            if self._abandoned.is_set():
                raise HortusError("the step was given up: this site is being stopped")
            yield batch
