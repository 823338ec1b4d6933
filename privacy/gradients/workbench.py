"""A warm model with its private gradient engine, checked before anything relies on it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig

from hortus.learning.loader import Batch, Encoded
from hortus.learning.models.base import default_device
from hortus.learning.models.memory import available, in_gib, kept_for_backward
from hortus.learning.passes.division import EMBEDDED, Shape
from hortus.learning.passes.workers import passes_at_once
from hortus.learning.warm_model import WarmModel, joins_often
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.protocol.plan import Agreement
from hortus.runtime.errors import HortusError, UsageError, in_one_line
from hortus.runtime.surroundings import out_of_memory

logger = logging.getLogger(__name__)
_GRADIENTS = 2**24  # numbers that the gradients of a pass's units may be: 64 MiB
_SPARE = 1.5  # of what is kept for the backward pass: it needs some room of its own
_FOR_PASSES = 0.5  # of the free memory, if several run at once: records and the like need some too
_ROUNDING = 1e-3
_MOST_SECONDS = 60.0  # for finding out what shares passes; it depends on no record
# What was measured in this process: it depends on shapes and on the machine, not on weights or data.
_limits: dict[str, dict[Shape, int]] = {}


class Workbench(WarmModel):
    """A warm model with the private gradient engine of its plan.

    Before it is used, a made-up record of the largest size goes through the model: it must fit into memory,
    and come to the same finite gradient each time. Then some of every shape go through alone and together: what
    of a unit's gradient depends on its neighbours, if only in the last bit, shares no pass. Nothing does where
    tokens are sent to experts: how many meet there depends on what they are, so made-up ones show nothing.

    Args:
        plan: What to train.
        path: Folder of the base model.
        shares_passes: Whether records may share passes at all: what that takes to find out, a trial can
            do without.
        sites: See `share_among`.

    Raises:
        UsageError: Plan, model, tokenizer and memory do not fit together.
    """

    def __init__(
        self, plan: Agreement, path: Path, *, shares_passes: bool = True, sites: int = 1
    ) -> None:
        super().__init__(plan, path)
        self.gradients = PerUnitGradients(self.model, ENGINES.parse(plan.privacy.engine))
        self._most = max(1, min(plan.training.micro_batch, _GRADIENTS // self.space.dimension))
        self._check_runs(plan, path, sites)
        # Of fewer than four, none would: passes hold powers of four.
        if shares_passes and self._most >= 4 and not self.base.has_experts:
            self._keep_apart(plan, self.base.config)
        else:
            alone = (*self.loader.passes.shared_shapes(), EMBEDDED)
            self.loader.passes.limits.update(dict.fromkeys(alone, 1))

    @property
    def workers(self) -> int:
        """Passes at once: time and memory only."""
        return self.gradients.workers

    def share_among(self, sites: int) -> None:
        """Runs passes side by side for as many sites, while memory allows."""
        wanted = passes_at_once(sites)
        self.gradients.workers = self.loader.workers = min(wanted, self._passes_that_fit)
        if self.workers < wanted:
            logger.info("memory for %d passes at once, processors for %d", self.workers, wanted)

    def _check_runs(self, plan: Agreement, path: Path, sites: int) -> None:
        """Sends a made-up record of the largest size through the model, and a short one, in turns."""
        few = self.loader.made_up([self.loader.passes.largest, (1,)], seed=0)
        batches = [self.loader.batch(few, np.array([i]), np.array([i])) for i in (0, 1, 0)]
        first = _Measured(batches[0])
        try:
            with self.moved():
                found = self.gradients.each([first])
                self._passes_that_fit = self._passes_in_memory(plan, first.kept)
                self.share_among(sites)
                found += self.gradients.each(batches[1:])
        except HortusError:
            raise
        except Exception as error:  # whatever a model says that was made for something else
            raise out_of_memory(error) or UsageError(
                f"the model fails on made-up tokens ({type(error).__name__}: {in_one_line(str(error), 200)})",
                where=str(path),
                remedy=f"It is not a model of texts of 1 to {self.task.max_length} tokens: use another one.",
            ) from error
        if not all(bool(torch.isfinite(gradient).all()) for gradient in found):
            raise UsageError(
                "gradients of made-up texts are NaN or infinite",
                where=str(path),
                remedy="The weights are far too large, or made for another precision: use another checkpoint.",
            )
        # A GPU may add in another order each time; what is drawn or remembered is larger than that.
        if (found[0] - found[2]).norm() > _ROUNDING * found[0].norm():
            raise UsageError(
                "the same text has a different gradient each time",
                where=str(path),
                remedy="The model draws random numbers or carries state from text to text. Switch that off in "
                "its config.json, or use another model.",
            )

    def _passes_in_memory(self, plan: Agreement, kept: int) -> int:
        """Compares what a pass takes with what there is; returns how many fit at once.

        Args:
            plan: Says how many records go through the model together.
            kept: Bytes that the backward pass of one record of the largest size needs.
        """
        of_unit = (plan.privacy.max_records_per_unit or 1) * self.task.most_examples
        one, tokens = self._memory_of_pass(sum(self.loader.passes.largest), of_unit, kept)
        free = available(default_device())
        if one > free:
            raise UsageError(
                f"a step takes about {in_gib(one)} of memory (a pass of up to {tokens:,} tokens), and "
                f"{in_gib(free)} are free",
                where="task.max_length" if of_unit == 1 else "privacy.max_records_per_unit",
                remedy="Lower task.max_length, privacy.max_records_per_unit, training.micro_batch or adapter.rank; "
                "or give the process more memory.",
            )
        return max(1, int(_FOR_PASSES * free / one))

    def _memory_of_pass(self, longest: int, of_unit: int, kept: int) -> tuple[float, int]:
        """Returns the bytes and the tokens of the largest pass of records with this many tokens."""
        tokens = max(of_unit * longest, self.loader.passes.shared_tokens(self._most))
        gradients = min(_GRADIENTS, self._most * self.space.dimension)
        size = _SPARE * kept * tokens / longest + 8 * gradients + 24 * self.space.dimension
        return size, tokens

    @contextmanager
    def moved(self) -> Iterator[None]:
        """Moves the adapter within the block: LoRA and the head start at 0, where most gradients are 0 too."""
        initial = self.initial_adapter
        moved = np.random.default_rng(0).normal(0, 0.02, len(initial))
        with self.holding(initial + moved.astype(np.float32)):
            yield
        self.space.write(self.model, initial)

    def _keep_apart(self, plan: Agreement, config: PretrainedConfig) -> None:
        """Lowers the limits of passes in which records would not have the bits that they have alone."""
        shapes = (
            plan.privacy.engine,
            plan.adapter,
            plan.task.kind,
            self.task.max_length,
            plan.training.precision,
            self._most,
        )
        key = f"{config.to_json_string()} {shapes} {default_device()}"
        if key not in _limits:
            with self.moved():
                _limits[key] = self._measured_limits(self._most)
        self.loader.passes.limits.update(_limits[key])

    def _measured_limits(self, most: int) -> dict[Shape, int]:
        """Compares, for every shape, records that share passes with the same alone."""
        passes, limits = self.loader.passes, {}
        end = time.monotonic() + _MOST_SECONDS
        for shape, lengths in passes.shared_shapes().items():
            if time.monotonic() > end:  # a model so slow gains little from shared passes
                limits[shape] = 1
                continue
            few = self.loader.made_up([lengths[0], lengths[len(lengths) // 2], lengths[-1]], seed=0)
            limits[shape] = self._kept_apart(few, passes.most(shape, most))
        shrunk = [str(s.tokens) for s, limit in limits.items() if limit < passes.most(s, most)]
        if self.loader.embeds:
            passes.limits.update(limits)
            few = self.loader.ahead(self.loader.made_up([passes.largest] * 3, seed=0))
            limits[EMBEDDED] = self._kept_apart(few, passes.most(EMBEDDED, most))
        if shrunk:
            logger.warning(
                "records of up to %s tokens do not share passes in full: with this model and "
                "processor they would change each other's last bits, or it is too slow to try",
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
        found = self.gradients.each(self.loader.batch(few, i, np.arange(len(i))) for i in orders)
        alone = torch.cat(found[: len(few)])
        for order, gradients in zip(orders[len(few) :], found[len(few) :], strict=True):
            if not torch.equal(gradients, alone[torch.from_numpy(order)]):
                break
            largest = len(order)
        return largest


def made_of(plan: Agreement, model_digest: str) -> tuple[object, ...]:
    """Returns all that a workbench follows from: plans that agree in it can share one.

    Args:
        plan: What to train.
        model_digest: Hash of the base model.
    """
    return (
        model_digest,
        plan.task,
        plan.adapter,
        plan.seed,
        plan.training.precision,
        plan.training.micro_batch,
        plan.privacy.max_records_per_unit,
        plan.privacy.engine,
        joins_often(plan),
    )


class _Measured:
    """A pass that counts the bytes which its backward pass needs."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.units = batch.units
        self.kept = 0

    def losses(self, model: torch.nn.Module) -> torch.Tensor:
        losses, self.kept = kept_for_backward(lambda: self._batch.losses(model))
        return losses
