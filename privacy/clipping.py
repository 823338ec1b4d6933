"""Clipping rules: from the norms of units' gradients to the factors they are scaled by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from hortus.protocol.errors import UsageError


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
