"""A base model in memory with an adapter on it: whoever computes with it holds it meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hortus.learning.loader import Loader
from hortus.learning.methods.kinds import METHODS
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.base import default_device
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.kinds import TASKS
from hortus.protocol.plan import Agreement


def joins_often(plan: Agreement) -> bool:
    """Whether a record joins a step at least once, so that it is worth keeping what frozen layers make of it."""
    return plan.steps * plan.training.sampling_rate >= 1


class WarmModel:
    """Base model, adapter and task of one plan; a process that trains and evaluates shares one.

    Args:
        plan: What is trained.
        path: Folder of the base model.

    Raises:
        UsageError: Plan, model and tokenizer do not fit together.

    Attributes:
        plan: What is trained.
        base: The base model with the task's head; the adapter's layers are within it.
        model: The same with its adapter, on the process's device.
        space: The adapter as a flat vector.
        initial_adapter: float32[d], what training starts from.
        task: What is learnt.
        tokenizer: The base model's own.
        loader: Encodes records, and divides them into passes.
    """

    def __init__(self, plan: Agreement, path: Path) -> None:
        self.plan = plan
        self.task = TASKS.parse(plan.task)
        self.base = self.task.load(path, plan.training.precision)
        self.tokenizer = load_tokenizer(path)
        self._method = METHODS.parse(plan.adapter)
        self.model = self._method.attach(self.base, plan.seed).to(default_device())
        self.space = AdapterSpace(self.model)
        self.initial_adapter: NDArray[np.float32] = self.space.read(self.model)
        self.loader = self.another_loader(keeps=joins_often(plan))
        self._in_use = threading.Lock()

    def another_loader(self, *, keeps: bool = True) -> Loader:
        """Returns a loader for the same model that divides records into passes of its own; see `Loader`."""
        size = self.plan.training.micro_batch
        return Loader(self.task, self.tokenizer, self.base, self._method, size, keeps=keeps)

    @contextmanager
    def holding(self, adapter: NDArray[np.float32]) -> Iterator[nn.Module]:
        """Lends the model with an adapter, float32[d], written into it; others wait."""
        with self._in_use:
            self.space.write(self.model, adapter)
            yield self.model
