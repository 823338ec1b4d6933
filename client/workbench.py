"""A warm model with its private gradient engine; virtual sites of one simulation share one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.learning.adapters import AdapterSpace, attach
from hortus.learning.models import default_device, load_base, load_tokenizer
from hortus.learning.tasks import TextClassification
from hortus.privacy.gradients import PerUnitGradients
from hortus.protocol.plan import Agreement


class Workbench:
    """Base model, adapter space, task and gradient engine of one plan.

    Args:
        plan: What to train.
        model_path: Folder of the base model.
    """

    def __init__(self, plan: Agreement, model_path: Path) -> None:
        base = load_base(model_path, plan.task, plan.training.precision)
        model: torch.nn.Module = attach(base, plan.adapter, plan.seed)
        self.model = model.to(default_device())
        self.space = AdapterSpace(self.model)
        self.task = TextClassification(
            plan.task,
            load_tokenizer(model_path),
            base,
            plan.adapter,
            plan.training.micro_batch,
        )
        self.gradients = PerUnitGradients(self.model)
        self._in_use = threading.Lock()

    @contextmanager
    def holding(self, adapter: NDArray[np.float32]) -> Iterator[torch.nn.Module]:
        """Lends the model with an adapter, float32[d], written into it; others wait."""
        with self._in_use:
            self.space.write(self.model, adapter)
            yield self.model
