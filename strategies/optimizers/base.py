"""What an optimiser is: a section of a strategy that builds a `torch.optim.Optimizer`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from hortus.protocol.numbers import Positive
from hortus.protocol.section import Kind
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from hortus.strategies.flat_optimizer import FlatOptimizer


class Optimizer(Kind):
    """An optimiser and its numbers."""

    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType(
        {"learning_rate": "it steps with what is already private, at no further cost"}
    )

    learning_rate: Positive = Field(0.02, description="Step size.")

    @abstractmethod
    def build(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Makes the optimiser.

        Raises:
            TypeError: It does not take an option.
            ValueError: It does not take a value.
        """

    def over(self, adapter: NDArray[np.float32]) -> FlatOptimizer:
        """Starts the optimiser at an adapter, float32[d]."""
        from hortus.strategies.flat_optimizer import FlatOptimizer

        return FlatOptimizer(self, adapter)

    def try_out(self, where: str) -> None:
        """Takes one step, before anybody is asked to train with it.

        Args:
            where: Its section in the plan.

        Raises:
            UsageError: It does not take an option, or not that value.
        """
        import numpy as np

        remedy = "See the optimizer's documentation."
        try:
            optimizer = self.over(np.zeros(1, np.float32))
            remedy = "Omit what is for GPUs or for differentiating through the optimizer."
            optimizer.step(np.zeros(1))
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise UsageError(f"{self.kind}: {error}", where=where, remedy=remedy) from error
