"""Automatic clipping: every gradient gets nearly norm C, large or small (Bu, Wang et al. 2023, AUTO-S)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hortus.privacy.gradients.clipping.base import Clipping
from hortus.protocol.numbers import Positive

if TYPE_CHECKING:
    import torch


class AutomaticClipping(Clipping):
    """Every gradient is scaled to nearly C: g·C/(‖g‖ + γ) (Bu, Wang et al. 2023)."""

    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {
            "stability": "it changes what is computed but not what that can cost, since everything is clipped"
        }
    )

    kind: Literal["automatic"] = "automatic"
    stability: Positive = Field(0.01, description="γ.")

    def factors(self, norms: torch.Tensor, bound: float) -> torch.Tensor:
        """Returns the factors, float64 (1, units)."""
        return bound / (norms + self.stability)
