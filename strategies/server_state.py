"""What the server carries from step to step: adapter, optimiser and clipping norm."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from hortus.privacy.gradients.signal_energy import Energy
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError
from hortus.strategies.kinds import strategy_of

_NORM = "clipping_norm"


class ServerState:
    """The server's half of training; everything in it follows from noisy sums.

    Args:
        contract: What is trained.
        adapter: float32[d], where training starts.
    """

    def __init__(self, contract: Contract, adapter: NDArray[np.float32]) -> None:
        self._strategy = strategy_of(contract)
        self._optimizer = self._strategy.server_optimizer.over(adapter)
        self._clipping_norm = np.float32(contract.privacy.clipping_norm)
        self._energy = Energy()

    @property
    def adapter(self) -> NDArray[np.float32]:
        """The current adapter, float32[d], a copy."""
        return self._optimizer.adapter

    def start(self, encoding: PrivateStep) -> NDArray[np.float32]:
        """Returns what the next step starts from, as sites are sent it."""
        return encoding.start(self.adapter, self._clipping_norm)

    def step(self, encoding: PrivateStep, total: NDArray[np.uint32], sites: int) -> None:
        """Takes a step.

        Args:
            encoding: The session's.
            total: The ring sum of the step.
            sites: Sites whose vectors are in it.

        Raises:
            HortusError: The adapter is not finite any more; sites would refuse it.
        """
        deviation, mean = 0.0, np.empty(0)
        if self._strategy.sums_releases:
            deviation = encoding.noise_deviation(sites, self._clipping_norm)
            mean, self._clipping_norm = encoding.mean_release(total, sites, self._clipping_norm)
        else:
            mean = encoding.fixed_point.decode(total) / sites
        gradient = self._strategy.pseudo_gradient(mean)
        self._energy += Energy.of(gradient, deviation)
        if not np.isfinite(self._optimizer.step(gradient)).all():
            raise HortusError(
                "training has diverged: the adapter is not finite after this step",
                where="strategy.server_optimizer",
                remedy="Lower its learning_rate. Finished rounds are kept.",
            )

    def take_energy(self) -> Energy:
        """Returns the energy of the steps since it was last asked for, or since a restart."""
        taken, self._energy = self._energy, Energy()
        return taken

    def state(self) -> dict[str, torch.Tensor]:
        """Everything as tensors, by name."""
        return self._optimizer.state() | {_NORM: torch.tensor(self._clipping_norm)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Resumes from a state that `state` returned."""
        own = dict(state)
        self._clipping_norm = np.float32(own.pop(_NORM).item())
        self._optimizer.restore(own)
