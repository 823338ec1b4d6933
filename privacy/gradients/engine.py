"""Clipped sums of per-unit gradients: what one unit adds has the same bits whoever else is there.

DP-SGD (Abadi et al. 2016, Algorithm 1): each unit's gradient g over all trainable parameters
together is scaled by min(1, C / ‖g‖₂) before the sum; for other rules see
`privacy.gradients.clipping`. Records go
through the model in passes. A pass holds one unit, or several that are kept apart to the last bit
(`learning.passes.isolation`); an engine gives the gradients of its units (`privacy.gradients.engines`).
Each unit is then clipped alone, in float64, rounded down to a multiple of a public grid, and added as
integers: exactly, so that neither the order nor the company of a unit matters.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hortus.learning.passes.isolation import keep_apart
from hortus.learning.passes.workers import passes_at_once, side_by_side
from hortus.privacy.gradients.clipping.base import ClippingAt
from hortus.privacy.gradients.engines.base import GradientEngine, LossBatch
from hortus.privacy.gradients.engines.hortus import HortusEngine
from hortus.runtime.errors import HortusError, UsageError

# What a sum is a multiple of where no mechanism asks for another grid.
FINE_GRID = 2.0**-40
# Grid points of one unit's coordinate at most: 2,048 units cannot overflow an int64.
_LARGEST = 2.0**52
_SLACK = 1 + 1e-9  # a norm that is computed from norms
_HORTUS = HortusEngine()

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """What a step needs of its units.

    Attributes:
        total: Σ of the clipped gradients, float64[d], multiples of the grid, parameters in the
            order of their sorted names.
        norms: float64 (groups, units), each unit's norm before clipping, by the groups of the
            clipping rule; infinite for a unit that was left out. As private as the records.
    """

    total: NDArray[np.float64]
    norms: NDArray[np.float64]


class PerUnitGradients:
    """Clipped sums of per-unit gradients of a model's trainable parameters.

    Records may meet in no layer: the first dimension of all activations is the record.

    Args:
        model: Its linear layers keep records apart from now on. Which parameters are trainable is
            read once, here.
        engine: Says what the gradient of each unit is.

    Raises:
        UsageError: No parameter is trainable, or a layer mixes records.

    Attributes:
        workers: Passes at once: time and memory only.
        sizes: Numbers in each trainable parameter, in the order of a gradient.
        dimension: d, all of them.
    """

    def __init__(self, model: nn.Module, engine: GradientEngine = _HORTUS) -> None:
        self.workers = passes_at_once()
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise UsageError(
                    f"{type(module).__name__} mixes records, so no gradient belongs to one unit",
                    where=name,
                    remedy="Use a model with layer normalisation.",
                )
        keep_apart(model)
        self._model = model
        self._engine = engine
        named = sorted(model.named_parameters(), key=lambda item: item[0])
        self._parameters = {name: p for name, p in named if p.requires_grad}
        if not self._parameters:
            raise UsageError("the model has no trainable parameter")
        self.sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        self.dimension = sum(self.sizes.values())

    def clipped_sum(
        self, batches: Iterable[LossBatch], clipping: ClippingAt, grid: float = FINE_GRID
    ) -> ClippedSum:
        """Returns Σ gᵤ·factorᵤ over all units, each cut to the grid; zeros for no units.

        A unit whose gradient overflows adds nothing: to fail on it would tell that it is there.

        Args:
            batches: The sampled units, a pass each.
            clipping: Gives the factors.
            grid: A power of two.

        Raises:
            UsageError: A parameter's gradients cannot be told apart by unit.
        """
        clipper = self._clipper(clipping, grid)
        total = torch.zeros(self.dimension, dtype=torch.int64, device=self._device)
        adding = threading.Lock()

        def add(gradients: torch.Tensor) -> NDArray[np.float64]:
            norms = [np.zeros((clipper.groups, 0))]
            for gradient in gradients:
                norm, clipped = clipper(gradient)
                norms.append(norm)
                with adding:
                    total.add_(clipped)
            return np.concatenate(norms, 1)

        norms = self._side_by_side((batch for batch in batches if len(batch.units)), add)
        return ClippedSum(
            total.cpu().numpy() * grid,
            np.concatenate([np.zeros((clipper.groups, 0)), *norms], 1),
        )

    def clipped_each(
        self, batch: LossBatch, clipping: ClippingAt, grid: float = FINE_GRID
    ) -> list[ClippedSum]:
        """Returns what each unit of a pass would add to a sum on its own, for audits.

        Args:
            batch: The units.
            clipping: Gives the factors.
            grid: A power of two.

        Raises:
            UsageError: A parameter's gradients cannot be told apart by unit.
        """
        clipper = self._clipper(clipping, grid)
        clipped = map(clipper, self.each([batch])[0])
        return [ClippedSum(one.cpu().numpy() * grid, norm) for norm, one in clipped]

    def each(self, batches: Iterable[LossBatch]) -> list[torch.Tensor]:
        """Returns the gradients of each pass's units, float32 (units, d), before clipping.

        Raises:
            UsageError: A parameter's gradients cannot be told apart by unit.
        """
        return self._side_by_side(batches, lambda gradients: gradients)

    def _side_by_side(
        self, batches: Iterable[LossBatch], work: Callable[[torch.Tensor], Result]
    ) -> list[Result]:
        """Returns what the work makes of the gradients of each pass's units, (units, d)."""
        self._model.train()
        for parameter in self._parameters.values():
            parameter.grad = None
        workers = self.workers if self._engine.several_at_once else 1
        with self._engine.attached(self._model, list(self._parameters)) as gradients:
            return side_by_side(batches, lambda batch: work(gradients(batch)), workers)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    def _clipper(self, clipping: ClippingAt, grid: float) -> "_Clipper":
        groups = clipping.groups(list(self.sizes))
        return _Clipper(clipping, groups, list(self.sizes.values()), grid)


class _Clipper:
    """Clips one unit's gradient at a time, and cuts it to the grid.

    Args:
        clipping: Gives the factors.
        groups: Group of each parameter.
        sizes: Numbers in each parameter.
        grid: A power of two.
    """

    def __init__(
        self, clipping: ClippingAt, groups: Iterable[int], sizes: list[int], grid: float
    ) -> None:
        self._clipping = clipping
        self._grid = grid
        # Parameters side by side of one group are one part.
        self._parts: list[tuple[int, slice]] = []
        end = 0
        for group, size in zip(groups, sizes, strict=True):
            start, end = end, end + size
            if self._parts and self._parts[-1][0] == group:
                start = self._parts.pop()[1].start
            self._parts.append((group, slice(start, end)))
        self.groups = 1 + max(group for group, _ in self._parts)
        # Float64 sums of d squares, a root, a quotient and a product are off by less than this.
        self._rounding = 1 + (end + 64) * 2.0**-52

    def __call__(self, gradient: torch.Tensor) -> tuple[NDArray[np.float64], torch.Tensor]:
        """Returns a unit's norms, float64 (groups, 1), and its addend in grid points, int64[d].

        Args:
            gradient: float32[d].
        """
        values = gradient.to(torch.float64)
        squared = values.new_zeros(self.groups)
        for group, part in self._parts:
            squared[group] += _squared_norm(values[part])
        norm = squared.sqrt_().mul_(self._rounding).unsqueeze(1)
        if not bool(torch.isfinite(norm).all()):
            return np.full((self.groups, 1), np.inf), torch.zeros_like(gradient, dtype=torch.int64)
        factors = self._clipping.factors(norm).squeeze(1)
        self._check(factors * norm.squeeze(1))
        factors = factors / self._grid
        for group, part in self._parts:
            values[part] *= factors[group]
        # Cutting towards zero lengthens no vector.
        addend = values.clamp_(-_LARGEST, _LARGEST).to(torch.int64)
        return norm.cpu().numpy(), addend

    def _check(self, norms: torch.Tensor) -> None:
        """Refuses what a unit would add, by groups, where it is more than the rule says of itself."""
        reached = float(norms.square().sum().sqrt())
        if not reached <= self._clipping.limit * _SLACK:
            raise HortusError(
                f"{self._clipping.rule.kind} let a unit add {reached:g}, but may let it add at most "
                f"{self._clipping.limit:g}",
                where="privacy.clipping",
                remedy="Nothing was sent. This is a defect of the clipping rule: please report it.",
            )


def _squared_norm(values: torch.Tensor) -> torch.Tensor:
    """Returns ‖v‖₂² of float32 numbers as float64[n]: their squares are exact."""
    return values.square().sum()
