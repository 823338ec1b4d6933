"""Low-rank directions and a magnitude for each output (Liu et al. 2024)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hortus.learning.methods.lora import LowRank

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hortus.learning.models.base import Base


class DoRA(LowRank):
    """`dora`: LoRA that learns the size of each output apart from its direction (Liu et al. 2024)."""

    kind: Literal["dora"] = "dora"

    def attach(self, base: Base, seed: int) -> nn.Module:
        """See `Method`. A magnitude starts at the norm of its frozen row, so training starts at the base model."""
        from peft.tuners.lora.dora import DoraLinearLayer

        model = self.with_peft(base, seed, use_dora=True)
        for layer in model.modules():
            if isinstance(layer, DoraLinearLayer):
                layer.forward = partial(_forward, layer)
        return model


def _forward(
    layer: Any,  # noqa: ANN401 - PEFT has no types
    x: torch.Tensor,
    *,
    lora_A: nn.Linear,  # noqa: N803 - PEFT's names
    lora_B: nn.Linear,  # noqa: N803 - as above
    scaling: float,
    base_layer: Any,  # noqa: ANN401 - as above
    base_result: torch.Tensor,
    **_: object,
) -> torch.Tensor:
    """Returns what DoRA adds to a frozen layer's output: m·(Wx + s·BAx)/‖W + s·BA‖ - Wx.

    The norms of rows are constants to the backward pass (their Section 4.3). PEFT sends the identity matrix through A
    and B for them, whose rows are no records; every operation here has records first.
    """
    weight, bias = base_layer.weight, base_layer.bias
    frozen = base_result if bias is None else base_result - bias
    adapted = (weight.T if layer.fan_in_fan_out else weight).detach()
    adapted = adapted + scaling * (lora_B.weight.detach() @ lora_A.weight.detach())
    directed = frozen + scaling * lora_B(lora_A(x))
    added: torch.Tensor = layer.weight * (directed / adapted.norm(dim=1)) - frozen
    return added
