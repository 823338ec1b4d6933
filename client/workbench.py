"""A warm model with its private gradient engine; virtual sites of one simulation share one."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig

from hortus.learning.adapters import AdapterSpace, attach
from hortus.learning.models import default_device, load_base, load_tokenizer
from hortus.learning.passes import EMBEDDED, Shape
from hortus.learning.tasks import Encoded, TextClassification
from hortus.privacy.gradients import PerUnitGradients
from hortus.protocol.plan import Agreement

logger = logging.getLogger(__name__)
_GRADIENTS = 2**24  # numbers that the gradients of a pass's units may be: 64 MiB
# What was measured in this process: it depends on shapes and on the machine, not on weights or data.
_limits: dict[str, dict[Shape, int]] = {}


class Workbench:
    """Base model, adapter space, task and gradient engine of one plan.

    Before it is used, made-up records of every shape go through the model alone and together: what
    of a unit's gradient depends on its neighbours, if only in the last bit, shares no pass.

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
        self._keep_apart(plan, base.config)

    @contextmanager
    def holding(self, adapter: NDArray[np.float32]) -> Iterator[torch.nn.Module]:
        """Lends the model with an adapter, float32[d], written into it; others wait."""
        with self._in_use:
            self.space.write(self.model, adapter)
            yield self.model

    def _keep_apart(self, plan: Agreement, config: PretrainedConfig) -> None:
        """Lowers the limits of passes in which records would not have the bits that they have alone."""
        most = max(1, min(plan.training.micro_batch, _GRADIENTS // self.space.dimension))
        shapes = (plan.adapter, plan.task.max_length, plan.training.precision, most)
        key = f"{config.to_json_string()} {shapes} {default_device()}"
        if key not in _limits:
            initial = self.space.read(self.model)
            # LoRA and the head start at 0, where most gradients are 0 too.
            moved = np.random.default_rng(0).normal(0, 0.02, len(initial))
            with self.holding(initial + moved.astype(np.float32)):
                _limits[key] = self._measured_limits(most)
            self.space.write(self.model, initial)
        self.task.passes.limits.update(_limits[key])

    def _measured_limits(self, most: int) -> dict[Shape, int]:
        """Compares, for every shape, records that share passes with the same alone."""
        passes, limits = self.task.passes, {}
        for shape, lengths in passes.shared_shapes().items():
            few = self.task.made_up([lengths[0], lengths[len(lengths) // 2], lengths[-1]], seed=0)
            limits[shape] = self._kept_apart(few, passes.most(shape, most))
        shrunk = [str(s.tokens) for s, limit in limits.items() if limit < passes.most(s, most)]
        if self.task.head_only:
            passes.limits.update(limits)
            few = self.task.ahead(self.task.made_up([passes.longest] * 3, seed=0))
            limits[EMBEDDED] = self._kept_apart(few, passes.most(EMBEDDED, most))
        if shrunk:
            logger.warning(
                "records of up to %s tokens do not share passes in full: with this model and "
                "processor they would change each other's last bits",
                ", ".join(shrunk),
            )
        return limits

    def _kept_apart(self, few: Encoded, most: int) -> int:
        """Returns how many such records, a power of four, have the bits in one pass that they have alone."""
        largest, together = 1, 4
        orders = [np.array([index]) for index in range(len(few))]
        while together <= most:
            orders.append(np.arange(together) % len(few))
            together *= 4
        found = self.gradients.each(self.task.batch(few, i, np.arange(len(i))) for i in orders)
        alone = torch.cat(found[: len(few)])
        for order, gradients in zip(orders[len(few) :], found[len(few) :], strict=True):
            if not torch.equal(gradients, alone[torch.from_numpy(order)]):
                break
            largest = len(order)
        return largest
