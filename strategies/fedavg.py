"""Federated averaging (McMahan et al. 2017): sites take several private steps alone and send how far they moved.

A site's move is post-processing of its own private steps: all of them are charged, and the sum needs no
noise of its own. The server steps against minus the mean move (Reddi et al. 2021, Algorithm 2): SGD with
rate 1 is FedAvg, with momentum FedAvgM (Hsu et al. 2019), Adagrad FedAdagrad, Adam FedAdam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from hortus.strategies.base import Strategy
from hortus.strategies.optimizers.kinds import AnyOptimizer
from hortus.strategies.optimizers.torch_optim import SGD

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hortus.strategies.local_step import LocalStep


class FedAvg(Strategy):
    """A site takes `training.local_steps` private steps alone and sends how far it moved (noise `local` only)."""

    kind: Literal["fedavg"] = "fedavg"
    sums_releases: ClassVar[bool] = False

    server_optimizer: AnyOptimizer = Field(
        default_factory=SGD,
        description="The optimizer with which the server steps, against minus the mean move.",
    )
    local_optimizer: AnyOptimizer = Field(
        description="The optimizer with which a site steps. It starts again for each sum."
    )

    def local(self, step: LocalStep) -> NDArray[np.int64]:
        """Returns the move of `training.local_steps` steps."""
        optimizer = self.local_optimizer.over(step.start)
        adapter = step.start
        for _ in range(step.steps):
            adapter = optimizer.step(self.gradient(step.gradient(adapter), adapter, step.start))
        return step.encode(adapter.astype("float64") - step.start)

    def gradient(
        self,
        private: NDArray[np.float64],
        adapter: NDArray[np.float32],
        start: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Returns the gradient of what a site minimises, float64[d].

        Args:
            private: The private gradient of the loss, float64[d].
            adapter: Where it was taken, float32[d].
            start: What the sum started from, float32[d].
        """
        del adapter, start
        return private

    def pseudo_gradient(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns minus the mean move, float64[d]."""
        return -mean

    @property
    def words(self) -> str:
        """Describes it: see `Strategy`."""
        return (
            "The site takes them alone, one after the other, each with its own noise, and sends only how far "
            "its adapter has moved."
        )
