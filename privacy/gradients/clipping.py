"""Clipping rules: from the norms of units' gradients to the factors they are scaled by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from hortus.runtime.errors import UsageError


class Clipping(Protocol):
    """A rule that looks at one unit's norms only, so that one unit never changes another's factor.

    The parameters are divided into groups; a group's part of a unit's gradient has one norm and one
    factor. What a rule bounds is thus ‖factor·g‖ ≤ factor·norm of each group.
    """

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns the group of each parameter, 0, 1, … without gaps.

        Args:
            names: Of the trainable parameters, sorted.
        """
        ...

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Returns the factors, float64 (groups, units).

        Args:
            norms: float64 (groups, units), never below the true norms, and above them by so much
                that float64 rounding cannot lift factor·gradient above factor·norm; infinite for
                a unit that adds nothing whatever its factor.
        """
        ...


@dataclass(frozen=True, slots=True)
class FlatClipping:
    """min(1, C / ‖g‖₂) over all parameters together (Abadi et al. 2016, Algorithm 1).

    Attributes:
        norm: C, or infinity for no clipping.
    """

    norm: float

    def __post_init__(self) -> None:
        if not self.norm > 0 or math.isnan(self.norm):
            raise UsageError(f"a clipping norm is positive, not {self.norm}")

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns one group for all."""
        return [0] * len(names)

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Returns the factors, float64 (1, units)."""
        return torch.clamp(self.norm / norms, max=1.0)


@dataclass(frozen=True, slots=True)
class UnitClipping:
    """min(1, C / ‖g‖₂) / C: what is summed has norm 1 at most, whatever C is.

    Attributes:
        norm: C.
    """

    norm: float

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns one group for all."""
        return [0] * len(names)

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Returns the factors, float64 (1, units)."""
        return torch.clamp(1 / norms, max=1 / self.norm)


@dataclass(frozen=True, slots=True)
class AutomaticClipping:
    """C / (‖g‖₂ + γ): every gradient gets nearly norm C, large or small (Bu, Wang et al. 2023, AUTO-S).

    Attributes:
        norm: C.
        stability: γ.
    """

    norm: float
    stability: float

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns one group for all."""
        return [0] * len(names)

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Returns the factors, float64 (1, units)."""
        return self.norm / (norms + self.stability)


@dataclass(frozen=True, slots=True)
class PerLayerClipping:
    """Each of L adapted layers by itself, to C/√L: together √(L·C²/L) = C (McMahan et al. 2018).

    Attributes:
        norm: C.
    """

    norm: float

    def groups(self, names: Sequence[str]) -> Sequence[int]:
        """Returns a group for each layer of the base model and its adapter's parameters."""
        layers = [_layer(name) for name in names]
        numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
        return [numbers[layer] for layer in layers]

    def factors(self, norms: torch.Tensor) -> torch.Tensor:
        """Returns the factors, float64 (layers, units)."""
        # Lowered by more than the quotient's and the root's own rounding.
        bound = self.norm / math.sqrt(len(norms)) * (1 - 2.0**-50)
        return torch.clamp(bound / norms, max=1.0)


def _layer(name: str) -> str:
    """Returns the base model's module that a parameter of a PEFT adapter belongs to."""
    for mark in (".lora_", ".modules_to_save."):
        before, found, _ = name.partition(mark)
        if found:
            return before
    return name.rpartition(".")[0]
