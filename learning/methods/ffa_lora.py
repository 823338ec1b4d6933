"""LoRA of which only the up-projections are trained (Sun et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hortus.learning.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import nn

    from hortus.learning.models.base import Base


class FFALoRA(LowRank):
    """`ffa-lora`: LoRA whose matrices A stay as they are drawn (Sun et al. 2024, FFA-LoRA), and the task's head.

    With fewer parameters there is less noise, and none of it meets the noise of the other matrix in their product.
    """

    kind: Literal["ffa-lora"] = "ffa-lora"

    def attach(self, base: Base, seed: int) -> nn.Module:
        """Training starts at the base model; A is drawn from the seed, alike at every site. See `Method`."""
        model = self.with_peft(base, seed)
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad = False
        return model
