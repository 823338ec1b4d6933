"""The task's head alone, on a frozen model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hortus.learning.methods.base import Method

if TYPE_CHECKING:
    from torch import nn

    from hortus.learning.models.base import Base


class Head(Method):
    """`head`: the task's head alone, on a frozen model."""

    kind: Literal["head"] = "head"

    @property
    def words(self) -> str:
        """See `Method`."""
        return "the task's own head, which is all that is trained"

    def attach(self, base: Base, seed: int) -> nn.Module:  # noqa: ARG002 - a head starts at 0
        """See `Method`."""
        from peft.utils.constants import DUMMY_TARGET_MODULES

        from hortus.learning.methods.peft_models import adapted, needs_head, settings

        needs_head(base, self.kind)
        return adapted(base, settings(base, target_modules=DUMMY_TARGET_MODULES))

    def frozen_layers(self, layers: int) -> int:
        """All of them."""
        return layers

    @property
    def trains_heads_alone(self) -> bool:
        """It does."""
        return True
