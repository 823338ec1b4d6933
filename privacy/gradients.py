"""Clipped sums of per-unit gradients, in one backward pass.

DP-SGD (Abadi et al. 2016, Algorithm 1): each unit's gradient g over all trainable parameters
together is scaled by min(1, C / ‖g‖₂) before the sum; other rules are other `Clipping`s. A batch
is run forward and backward once. Each layer's per-unit gradients are formed where they are small, as
those of low-rank adapters are, or kept as activations and output gradients until the norms
of all layers are known (`privacy.contributions`). Gradients are float32; their norms, the factors and
the sum are float64, so that ‖·‖₂ ≤ C holds for what is summed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hortus.privacy.clipping import Clipping
from hortus.privacy.contributions import Contribution
from hortus.privacy.tracking import Recorder, tracking
from hortus.protocol.errors import UsageError


class LossBatch(Protocol):
    """Some records whose losses can be computed, one for each; units of privacy are whole in it."""

    @property
    def units(self) -> torch.Tensor:
        """Number of each record's unit within the batch, int64 (records,), from 0 without gaps."""
        ...

    def losses(self, model: nn.Module) -> torch.Tensor:
        """Returns each record's loss, shape (records,)."""
        ...


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """What a step needs of its units.

    Attributes:
        total: Σ of the clipped gradients, float64[d], parameters in the order of their sorted names.
        norms: float64 (groups, units), each unit's norm before clipping, by the groups of the
            clipping rule; infinite for a unit that was left out. As private as the records.
    """

    total: NDArray[np.float64]
    norms: NDArray[np.float64]


class PerUnitGradients:
    """Clipped sums of per-unit gradients of a model's trainable parameters.

    Records may meet in no layer: the first dimension of all activations is the record. Gradient
    checkpointing and half-precision activations are fine, a parameter may be used more than once.

    Args:
        model: Which parameters are trainable is read once, here.

    Raises:
        UsageError: No parameter is trainable, or a layer mixes records.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise UsageError(
                    f"{type(module).__name__} mixes records, so that no gradient is one unit's",
                    where=name,
                    remedy="Use a model with layer normalisation.",
                )
        self._model = model
        named = sorted(model.named_parameters(), key=lambda item: item[0])
        self._parameters = {name: p for name, p in named if p.requires_grad}
        if not self._parameters:
            raise UsageError("the model has no trainable parameter")
        self.dimension = sum(parameter.numel() for parameter in self._parameters.values())
        # Float64 sums of d squares, a root, a quotient and a product are off by less than this.
        self._rounding = 1 + (self.dimension + 64) * 2.0**-52

    def clipped_sum(self, batches: Iterable[LossBatch], clipping: Clipping) -> ClippedSum:
        """Returns Σ gᵤ·factorᵤ over all units; zeros for no units.

        A unit whose gradient overflows adds nothing: to fail on it would tell that it is there.

        Args:
            batches: The sampled units; how they are batched bounds memory only.
            clipping: Gives the factors.

        Raises:
            UsageError: A parameter's gradients cannot be told apart by unit.
        """
        self._model.train()
        device = next(iter(self._parameters.values())).device
        totals = [
            torch.zeros(p.numel(), dtype=torch.float64, device=device)
            for p in self._parameters.values()
        ]
        groups = torch.tensor(clipping.groups(list(self._parameters)), device=device)
        norms = [torch.zeros(int(groups.max()) + 1, 0, dtype=torch.float64, device=device)]
        for batch in batches:
            if len(batch.units) == 0:
                continue
            contributions = self._contributions(batch)
            norm, factors = _norms_and_factors(contributions, groups, clipping, self._rounding)
            for total, contribution, factor in zip(totals, contributions, factors, strict=True):
                contribution.add_to(total, factor)
            norms.append(norm)
        return ClippedSum(torch.cat(totals).cpu().numpy(), torch.cat(norms, 1).cpu().numpy())

    def clipped_each(self, batch: LossBatch, clipping: Clipping) -> list[ClippedSum]:
        """Returns each unit's own clipped gradient, all held at once: for audits, in small batches.

        Args:
            batch: The units.
            clipping: Gives the factors.

        Raises:
            UsageError: A parameter's gradients cannot be told apart by unit.
        """
        self._model.train()
        contributions = self._contributions(batch)
        device = next(iter(self._parameters.values())).device
        groups = torch.tensor(clipping.groups(list(self._parameters)), device=device)
        norm, factors = _norms_and_factors(contributions, groups, clipping, self._rounding)
        rows = torch.cat(
            [
                torch.where(factor > 0, factor, 0.0)[:, None] * one.dense().to(torch.float64)
                for one, factor in zip(contributions, factors, strict=True)
            ],
            1,
        )
        each = rows.nan_to_num(0.0, 0.0, 0.0).cpu().numpy()
        norms = norm.cpu().numpy()
        return [ClippedSum(row, norms[:, unit : unit + 1]) for unit, row in enumerate(each)]

    def _contributions(self, batch: LossBatch) -> list[Contribution]:
        """Runs a batch forward and backward."""
        device = next(iter(self._parameters.values())).device
        unit = batch.units.to(device)
        counts = torch.bincount(unit)
        if not bool((counts > 0).all()):
            raise ValueError("the units of a batch are numbered from 0 without gaps")
        recorder = Recorder(unit, len(counts))
        for parameter in self._parameters.values():
            parameter.grad = None
        with tracking(self._model, list(self._parameters), recorder):
            losses = batch.losses(self._model)
            if losses.shape != unit.shape:
                raise ValueError(f"{len(unit)} records have losses {list(losses.shape)}")
            if losses.requires_grad:
                losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32)).backward()  # type: ignore[no-untyped-call]
        for name, parameter in self._parameters.items():
            # One that was fetched before tracking began, as recurrent layers do, has a grad.
            if name not in recorder.contributions or parameter.grad is not None:
                parameter.grad = None
                raise UsageError(
                    "its gradient for one unit is not known, since the loss does not depend on it "
                    "in a way that can be followed",
                    where=name,
                    remedy="Freeze the parameter, or use it in the forward pass as it is.",
                )
        return [recorder.contributions[name] for name in self._parameters]


def _norms_and_factors(
    contributions: list[Contribution], groups: torch.Tensor, clipping: Clipping, rounding: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns norms, float64 (groups, units), and each parameter's factors, (parameters, units)."""
    squared = torch.stack([c.squared_norms() for c in contributions])  # (parameters, units)
    grouped = squared.new_zeros(int(groups.max()) + 1, squared.shape[1])
    norm = grouped.index_add_(0, groups, squared).sqrt_().mul_(rounding)
    finite = torch.isfinite(norm).all(0)
    norm = torch.where(finite, norm, torch.inf)
    factors = torch.where(finite, clipping.factors(norm), 0.0)  # (groups, units)
    return norm, factors[groups]
