"""Low-rank matrices beside linear layers (Hu et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hortus.learning.methods.base import Method
from hortus.protocol.numbers import Positive

if TYPE_CHECKING:
    from torch import nn

    from hortus.learning.models.base import Base


class LowRank(Method):
    """Low-rank matrices beside linear layers, and the task's own head where it has one."""

    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {
            "rank": 64,
            "alpha": "it changes what is computed, not what that can cost: all of it is clipped",
            "targets": "how much is trained is limited by auto_approve.max_parameters",
            "layers": "how much is trained is limited by auto_approve.max_parameters",
        }
    )

    rank: int = Field(8, ge=1, le=1024, description="Rank of the matrices.")
    alpha: Positive = Field(16.0, description="α: their output is scaled by α / rank.")
    targets: tuple[str, ...] = Field(
        ("query", "value"), min_length=1, description="Names of the linear layers that get them."
    )
    layers: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="Transformer layers that get them, from 0. None: all of them.",
    )

    @property
    def words(self) -> str:
        """See `Method`."""
        return (
            f"{type(self).__name__} of rank {self.rank}, and the task's own head where it has one"
        )

    def frozen_layers(self, layers: int) -> int:  # noqa: ARG002 - the plan's own
        """Those before the first adapted one."""
        return min(self.layers) if self.layers else 0

    def with_peft(self, base: Base, seed: int, **own: bool) -> nn.Module:
        """Has PEFT add the matrices: A's entries are drawn from the seed, B is zero.

        Args:
            base: Changed in place.
            seed: A's.
            own: Further settings of PEFT's `LoraConfig`.

        Raises:
            UsageError: The model has no such layers, or PEFT does not know the architecture.
        """
        from hortus.learning.methods.peft_models import (
            adapted,
            are_transposed,
            draw_down_projections,
            linear_layers,
            settings,
        )

        targets = linear_layers(base, self.targets, self.layers)
        model = adapted(
            base,
            settings(
                base,
                r=self.rank,
                lora_alpha=self.alpha,
                target_modules=targets,
                fan_in_fan_out=are_transposed(base, targets),
                **own,
            ),
        )
        draw_down_projections(model, seed)
        return model


class LoRA(LowRank):
    """`lora`: low-rank matrices beside the target layers (Hu et al. 2021), and the task's head."""

    kind: Literal["lora"] = "lora"

    def attach(self, base: Base, seed: int) -> nn.Module:
        """Training starts at the base model (their Section 4.1). See `Method`."""
        return self.with_peft(base, seed)
