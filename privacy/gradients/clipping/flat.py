"""Flat clipping: min(1, C / ‖g‖₂) over all parameters together (Abadi et al. 2016, Algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hortus.privacy.gradients.clipping.base import Clipping

if TYPE_CHECKING:
    import torch


class FlatClipping(Clipping):
    """A gradient longer than C is cut to C: g·min(1, C/‖g‖)."""

    kind: Literal["flat"] = "flat"

    def factors(self, norms: torch.Tensor, bound: float) -> torch.Tensor:
        """Returns the factors, float64 (1, units)."""
        return (bound / norms).clamp(max=1.0)
