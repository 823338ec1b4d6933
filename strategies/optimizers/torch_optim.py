"""Optimisers of `torch.optim`, under their names there, with all their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hortus.protocol.numbers import Finite, Positive, Scalar
from hortus.strategies.optimizers.base import Optimizer

if TYPE_CHECKING:
    import torch


class TorchOptimizer(Optimizer):
    """The class of `torch.optim` that bears the kind's name."""

    learning_rate: Positive = Field(0.02, description="Its `lr`.")
    options: dict[str, Scalar | tuple[Finite, ...]] = Field(
        default_factory=dict, description="Its other keyword arguments, such as `betas`."
    )

    def build(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Makes it: see `Optimizer`."""
        import torch

        made: torch.optim.Optimizer = getattr(torch.optim, self.kind)(
            parameters, lr=self.learning_rate, **self.options
        )
        return made


class SGD(TorchOptimizer):
    """Stochastic gradient descent, with `momentum` and `nesterov` as options."""

    kind: Literal["SGD"] = "SGD"
    learning_rate: Positive = Field(1.0, description="Its `lr`.")


class Adam(TorchOptimizer):
    """Adam (Kingma and Ba 2015)."""

    kind: Literal["Adam"] = "Adam"


class AdamW(TorchOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["AdamW"] = "AdamW"


class Adagrad(TorchOptimizer):
    """Adagrad (Duchi et al. 2011)."""

    kind: Literal["Adagrad"] = "Adagrad"


class RMSprop(TorchOptimizer):
    """RMSprop (Tieleman and Hinton 2012)."""

    kind: Literal["RMSprop"] = "RMSprop"
