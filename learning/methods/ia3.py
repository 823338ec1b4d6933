"""A factor for each output, or input, of some layers (Liu et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hortus.learning.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from hortus.learning.models.base import Base


class IA3(Method):
    """`ia3`: a factor for each output of the target layers (Liu et al. 2022), and the task's head; very few parameters."""

    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        dict.fromkeys(
            ("targets", "inputs", "layers"),
            "how much is trained is limited by auto_approve.max_parameters",
        )
    )

    kind: Literal["ia3"] = "ia3"
    targets: tuple[str, ...] = Field(
        ("key", "value"),
        min_length=1,
        description="Names of the linear layers whose outputs get factors.",
    )
    inputs: tuple[str, ...] = Field(
        (),
        description="Names of the linear layers whose inputs get factors, such as the second of a feed-forward part.",
    )
    layers: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="Transformer layers that get them, from 0. None: all of them.",
    )

    @property
    def words(self) -> str:
        """See `Method`."""
        return "factors of some layers' outputs or inputs (IA3), and the task's own head where it has one"

    def attach(self, base: Base, seed: int) -> nn.Module:  # noqa: ARG002 - factors start at 1
        """Training starts at the base model. See `Method`."""
        from peft import IA3Config

        from hortus.learning.methods.peft_models import adapted, are_transposed, linear_layers

        outputs = linear_layers(base, self.targets, self.layers)
        inputs = linear_layers(base, self.inputs, self.layers) if self.inputs else []
        return adapted(
            base,
            IA3Config(
                target_modules=sorted({*outputs, *inputs}),
                feedforward_modules=inputs,
                modules_to_save=list(base.heads) or None,
                fan_in_fan_out=are_transposed(base, [*outputs, *inputs]),
            ),
        )

    def frozen_layers(self, layers: int) -> int:  # noqa: ARG002 - the plan's own
        """Those before the first adapted one."""
        return min(self.layers) if self.layers else 0
