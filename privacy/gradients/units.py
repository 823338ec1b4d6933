"""The units of one pass, and the backward pass of all their losses."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from hortus.privacy.gradients.engines.base import LossBatch


@dataclass(frozen=True, slots=True)
class Units:
    """Which record belongs to which unit.

    Attributes:
        index: int64 (records,), each record's unit, from 0 without gaps.
        count: Number of units.
    """

    index: torch.Tensor
    count: int

    @classmethod
    def of(cls, batch: LossBatch, device: torch.device) -> Self:
        """Reads a pass's units."""
        index = batch.units.to(device)
        counts = torch.bincount(index)
        if not bool((counts > 0).all()):
            raise ValueError("the units of a batch are numbered from 0 without gaps")
        return cls(index, len(counts))

    @property
    def records(self) -> int:
        """Records in the pass."""
        return len(self.index)

    def summed(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns (units, size), the sums over each unit's records of rows, (records, size)."""
        if self.count == self.records:
            return rows[torch.argsort(self.index)]
        return rows.new_zeros(self.count, rows.shape[1]).index_add_(0, self.index, rows)


def backward(batch: LossBatch, model: nn.Module) -> None:
    """Runs a pass forward, and the sum of its losses backward."""
    losses = batch.losses(model)
    if losses.shape != batch.units.shape:
        raise ValueError(f"{len(batch.units)} records have losses {list(losses.shape)}")
    if losses.requires_grad:
        losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32)).backward()  # type: ignore[no-untyped-call]
