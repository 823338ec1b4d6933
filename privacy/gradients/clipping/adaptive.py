"""A clipping norm that follows a quantile of the units' norms, at a stated price.

Andrew et al. (2021, Algorithm 1): each step also counts, with noise, the units whose gradient is no
longer than C, and C moves until their share is the quantile γ. Here the count is one more coordinate
of the vector that is summed: a unit adds (g·min(1, C/‖g‖)/C, w·(b − γ)) with b = 1 where ‖g‖ ≤ C and else
0. The first part has norm 1 at most and the second w·max(γ, 1 − γ), whatever C is. So it is one
Gaussian release of sensitivity √(1 + w²·max(γ, 1 − γ)²); the noise on the gradient grows by that
factor, which is the split of their Theorem 1, and the claim holds for every C that a server may name.
b − γ, rather than b, makes the fixed point right without knowing how many units there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from hortus.privacy.gradients.clipping.base import Clipping
from hortus.protocol.numbers import Positive

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_IN_EPSILON = "part of the mechanism: its cost is in the ε that max_epsilon limits"
_PARTS = 1e6  # of C that a unit norm is a whole number of, rounded up: the same on every machine


class AdaptiveClipping(Clipping):
    """Flat, with a C that follows a quantile of the units' norms (Andrew et al. 2021; strategy `fedsgd` only)."""

    moves: ClassVar[bool] = True
    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {
            "quantile": _IN_EPSILON,
            "rate": "it changes what is computed but not what that can cost, since everything is clipped",
            "count_weight": _IN_EPSILON,
            "smallest": _IN_EPSILON,
            "largest": _IN_EPSILON,
            "unit_norm": _IN_EPSILON,
        }
    )

    kind: Literal["adaptive"] = "adaptive"
    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="γ, the share of units that should not be clipped."
    )
    rate: Annotated[float, Field(gt=0, le=10)] = Field(
        0.2, description="η: each step, C ← C·exp(−η·(share not clipped − γ))."
    )
    count_weight: Annotated[float, Field(gt=0, le=2)] = Field(
        0.2,
        description="Weight w of the noisy count beside the gradient. It is charged with the gradient, and "
        "the noise grows by "
        "√(1 + w²·max(γ, 1 − γ)²).",
    )
    smallest: Positive = Field(1e-3, description="Smallest C that it may reach.")
    largest: Positive = Field(1e3, description="Largest C that it may reach.")
    unit_norm: Positive = Field(
        default_factory=lambda fields: _unit_norm(
            fields.get("quantile", 0.5), fields.get("count_weight", 0.2)
        ),
        description="The norm of what one unit adds, in C: √(1 + w²·max(γ, 1 − γ)²), rounded up. Omit it: it "
        "follows from the other values.",
    )

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError("smallest is more than largest")
        if self.unit_norm != _unit_norm(self.quantile, self.count_weight):
            raise ValueError("unit_norm does not follow from quantile and count_weight")
        return self

    def factors(self, norms: torch.Tensor, bound: float) -> torch.Tensor:
        """Returns min(1, C / ‖g‖₂) / C, float64 (1, units): what is summed has norm 1 at most."""
        return (1 / norms).clamp(max=1 / bound)

    def limit(self, bound: float) -> float:  # noqa: ARG002 - in units of it
        """Returns the unit norm: see `Clipping`."""
        return self.unit_norm

    def scale(self, bound: float) -> float:
        """Returns C: what is summed is in units of it."""
        return bound

    def tally(self, norms: NDArray[np.float64], bound: float, grid: float) -> float:
        """Returns w·Σ(b − γ), each unit's term cut to a multiple of the grid."""
        units, below = norms.shape[1], int((norms[0] <= bound).sum())
        short = int(self.count_weight * (1 - self.quantile) / grid)
        long = int(-self.count_weight * self.quantile / grid)
        return float((below * short + (units - below) * long) * grid)

    def next_bound(self, bound: float, tally: float, nominal: float) -> float:
        """Returns C·exp(−η·Σ(b − γ)/m) within the bounds, m the nominal number of units."""
        excess = min(1.0, max(-1.0, tally / (self.count_weight * nominal)))
        moved = bound * math.exp(-self.rate * excess)
        return min(self.largest, max(self.smallest, moved))

    def words(self, bound: float) -> str:
        """Describes it: see `Clipping`."""
        return (
            f"{super().words(bound)} at first, then such that {self.quantile:.0%} of the units are not "
            f"clipped; counting them takes {self.unit_norm - 1:.2%} more noise"
        )


def _unit_norm(quantile: float, count_weight: float) -> float:
    exact = math.hypot(1, count_weight * max(quantile, 1 - quantile))
    return math.ceil(exact * _PARTS) / _PARTS
