"""The server's optimiser: any of `torch.optim` over the flat adapter vector.

With delta updates the pseudo-gradient is minus the mean delta, so SGD with rate 1 is FedAvg
(McMahan et al. 2017), with momentum FedAvgM (Hsu et al. 2019), and Adam is FedAdam (Reddi et al.
2021, Algorithm 2). With gradient updates the same path is distributed DP-SGD.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.protocol.plan import Optimizer
from hortus.runtime.errors import UsageError


def build_optimizer(
    config: Optimizer, parameters: list[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Makes the configured `torch.optim` optimiser.

    Raises:
        UsageError: It does not take an option, or not that value.
    """
    kind = getattr(torch.optim, config.name)
    try:
        return kind(parameters, lr=config.learning_rate, **config.options)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"torch.optim.{config.name}: {error}",
            where="optimizer.options",
            remedy="See the arguments of that class in PyTorch's documentation.",
        ) from error


def check_optimizer(config: Optimizer, where: str) -> None:
    """Tries an optimiser out, before anybody is asked to train with it.

    Args:
        config: The optimiser.
        where: Its section in the plan.

    Raises:
        UsageError: It does not take an option, or not that value.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    try:
        build_optimizer(config, [parameter]).step()
    except UsageError as error:
        raise UsageError(error.problem, where=f"{where}.options", remedy=error.remedy) from error
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"torch.optim.{config.name}: {error}",
            where=f"{where}.options",
            remedy="Leave out what is for GPUs or for differentiating through the optimiser.",
        ) from error


class ServerOptimizer:
    """Turns mean updates into new adapters.

    Args:
        config: Which optimiser.
        adapter: float32[d], where training starts.
    """

    def __init__(self, config: Optimizer, adapter: NDArray[np.float32]) -> None:
        self._parameter = torch.nn.Parameter(torch.from_numpy(adapter.copy()))
        self._optimizer = build_optimizer(config, [self._parameter])

    @property
    def adapter(self) -> NDArray[np.float32]:
        """The current adapter, float32[d], a copy."""
        return self._parameter.detach().numpy().copy()

    def step(self, gradient: NDArray[np.float64]) -> NDArray[np.float32]:
        """Steps against a (pseudo-)gradient, float64[d]; returns the new adapter."""
        self._parameter.grad = torch.from_numpy(gradient).to(torch.float32)
        self._optimizer.step()
        return self.adapter

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter and the optimiser's own tensors, by name."""
        own = self._optimizer.state.get(self._parameter, {})
        tensors = {name: torch.as_tensor(value) for name, value in own.items() if value is not None}
        return {"adapter": self._parameter.detach().clone(), **tensors}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from a state that `state` returned."""
        own = dict(state)
        with torch.no_grad():
            self._parameter.copy_(own.pop("adapter"))
        if own:
            self._optimizer.state[self._parameter] = {name: t.clone() for name, t in own.items()}
