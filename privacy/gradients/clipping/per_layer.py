"""Per-layer clipping: each of L adapted layers is clipped alone, to C/√L; together √(L·C²/L) = C (McMahan et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from hortus.privacy.gradients.clipping.base import Clipping

if TYPE_CHECKING:
    import torch


class PerLayerClipping(Clipping):
    """Each of L adapted layers is clipped alone, to C/√L (McMahan et al. 2018)."""

    kind: Literal["per-layer"] = "per-layer"

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns a group for each layer of the base model and its adapter's parameters."""
        layers = [_layer(name) for name in names]
        numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
        return [numbers[layer] for layer in layers]

    def factors(self, norms: torch.Tensor, bound: float) -> torch.Tensor:
        """Returns the factors, float64 (layers, units)."""
        # Lowered by more than the quotient's and the root's own rounding.
        share = bound / math.sqrt(len(norms)) * (1 - 2.0**-50)
        return (share / norms).clamp(max=1.0)


def _layer(name: str) -> str:
    """Returns the base model's module that a parameter of a PEFT adapter belongs to."""
    for mark in (".lora_", ".modules_to_save."):
        before, found, _ = name.partition(mark)
        if found:
            return before
    return name.rpartition(".")[0]
