"""An optimiser over the flat adapter vector, as either side of a strategy steps with one."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.strategies.optimizers.base import Optimizer


class FlatOptimizer:
    """Turns (pseudo-)gradients into adapters.

    Args:
        kind: Which optimiser.
        adapter: float32[d], where it starts.

    Raises:
        TypeError: The optimiser does not take an option.
        ValueError: It does not take a value.
    """

    def __init__(self, kind: Optimizer, adapter: NDArray[np.float32]) -> None:
        self._parameter = torch.nn.Parameter(torch.from_numpy(adapter.copy()))
        self._optimizer = kind.build([self._parameter])

    @property
    def adapter(self) -> NDArray[np.float32]:
        """The current adapter, float32[d], a copy."""
        return self._parameter.detach().numpy().copy()

    def step(self, gradient: NDArray[np.float64]) -> NDArray[np.float32]:
        """Steps against a (pseudo-)gradient, float64[d]; returns the new adapter, float32[d]."""
        self._parameter.grad = torch.from_numpy(gradient).to(torch.float32)
        self._optimizer.step()
        return self.adapter

    def state(self) -> dict[str, torch.Tensor]:
        """Returns copies of the adapter and of the optimiser's own tensors, by name."""
        own = self._optimizer.state.get(self._parameter, {})
        moments = {name: torch.as_tensor(value) for name, value in own.items() if value is not None}
        tensors = {"adapter": self._parameter.detach()} | moments
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Resumes from a state that `state` returned."""
        own = dict(state)
        with torch.no_grad():
            self._parameter.copy_(own.pop("adapter"))
        if own:
            self._optimizer.state[self._parameter] = {name: t.clone() for name, t in own.items()}
