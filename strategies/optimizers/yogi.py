"""Yogi (Zaheer et al. 2018, Algorithm 2): Adam whose second moment moves by at most (1 − β₂)·g² a step.

Adam forgets large gradients at the rate at which they shrink; Yogi only ever adds or subtracts, so its step size
cannot leap when gradients become small. As a server optimiser over `fedavg` it is FedYogi (Reddi et al. 2021,
Algorithm 2), whose start it takes: v₀ = ε², and no correction of bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hortus.protocol.numbers import Positive
from hortus.strategies.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch

Decay = Annotated[float, Field(ge=0, lt=1)]


class Yogi(Optimizer):
    """Adam with an additive second moment (Zaheer et al. 2018); over `fedavg` at the server it is FedYogi."""

    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {
            **dict.fromkeys(("betas", "eps"), "part of a step with what is already private"),
            **Optimizer.unread,
        }
    )

    kind: Literal["Yogi"] = "Yogi"
    learning_rate: Positive = Field(0.02, description="Step size η.")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.99), description="The share of the two moments that each step keeps: β₁ and β₂."
    )
    eps: Positive = Field(
        1e-3,
        description="ε, which limits how adaptive the step is: η·m / (√v + ε), where v starts at ε².",
    )

    def build(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Makes it: see `Optimizer`."""
        made: torch.optim.Optimizer = _implementation()(
            parameters, {"lr": self.learning_rate, "betas": self.betas, "eps": self.eps}
        )
        return made


@cache
def _implementation() -> Any:  # noqa: ANN401 - a class that takes PyTorch to be stated
    """Defines the optimiser when PyTorch is first needed."""
    import torch

    class TorchYogi(torch.optim.Optimizer):
        """See the module.

        Args:
            parameters: Real tensors, each stepped coordinate by coordinate.
            defaults: `lr`, `betas` and `eps`.
        """

        def __init__(
            self, parameters: Iterable[torch.nn.Parameter], defaults: dict[str, Any]
        ) -> None:
            super().__init__(parameters, defaults)

        @torch.no_grad()
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            """Takes one step against the parameters' gradients."""
            del closure
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group)

        def _move(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> None:
            (first, second), gradient = group["betas"], parameter.grad
            assert gradient is not None  # noqa: S101 - `step` has looked
            state = self.state[parameter]
            if not state:
                state["m"] = torch.zeros_like(parameter)
                state["v"] = torch.full_like(parameter, group["eps"] ** 2)
            m, v, square = state["m"], state["v"], gradient.square()
            m.mul_(first).add_(gradient, alpha=1 - first)
            v.addcmul_((square - v).sign(), square, value=1 - second)
            parameter.addcdiv_(m, v.sqrt().add_(group["eps"]), value=-group["lr"])

    return TorchYogi
