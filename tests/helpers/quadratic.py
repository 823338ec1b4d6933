"""Sites whose loss is ½‖w − centre‖²: every gradient is known, and nothing else is made up."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hortus.planning.plan_file import make_plan
from hortus.privacy.step import PrivateStep, nominal_batch
from hortus.protocol.plan import Contract, Plan
from hortus.strategies.kinds import strategy_of
from hortus.strategies.local_step import LocalStep
from hortus.strategies.server_state import ServerState

CENTRES = (np.array([1.0, -2.0, 0.5, 4.0]), np.array([3.0, 0.0, 0.25, -1.0]))
START = np.array([0.5, 1.0, -1.0, 0.0], np.float32)


def plan_with(strategy: dict[str, Any], local_steps: int = 1, **privacy: Any) -> Plan:
    """A plan without noise, if `privacy` says no other."""
    return make_plan(
        {
            "name": "quadratic",
            "model": "model",
            "task": {"labels": ["a", "b"]},
            "training": {
                "rounds": 3,
                "steps_per_round": 2,
                "local_steps": local_steps,
                "sampling_rate": 0.5,
                "nominal_units": 60,
            },
            "strategy": strategy,
            "privacy": privacy or {"noise": "unsafe_none"},
            "cohort": {"minimum": 2},
        }
    )


def contract_with(strategy: dict[str, Any], local_steps: int = 1, **privacy: Any) -> Contract:
    plan = plan_with(strategy, local_steps, **privacy)
    noise = None if plan.privacy.noise == "unsafe_none" else 1.0
    return plan.contract(model_digest="a" * 64, noise_multiplier=noise)


class Site:
    """One site: its centre, and the private steps that were taken for the sum at hand."""

    def __init__(self, contract: Contract, centre: NDArray[np.float64]) -> None:
        self.encoding = PrivateStep.of(contract, len(centre), len(CENTRES))
        self.strategy = strategy_of(contract)
        self.centre = centre
        self.taken: list[int] = []
        self.released: list[int] = []

    def steps(self, start: NDArray[np.float32]) -> LocalStep:
        """What the strategy's half of the site gets."""
        self.load(start)
        self.taken.clear()
        self.released.clear()
        return LocalStep(self.encoding, start, self._summed, self._noised, self.load)

    def load(self, adapter: NDArray[np.float32]) -> None:
        self._adapter = adapter

    def vector(self, start: NDArray[np.float32]) -> NDArray[np.uint32]:
        """What the site adds to a sum, in the ring."""
        return self.strategy.local(self.steps(start)).astype(np.uint32)

    def _summed(self, number: int) -> tuple[NDArray[np.float64], int]:
        self.taken.append(number)
        gradient = self._adapter.astype(np.float64) - self.centre
        return gradient * nominal_batch(self.encoding.contract), 30

    def _noised(self, number: int, total: NDArray[np.float64], units: int) -> NDArray[np.int64]:
        """A release with noise 0: nothing here is private."""
        del units
        self.released.append(number)
        mechanism = self.encoding.mechanism
        assert mechanism is not None
        return np.rint(total * mechanism.scale).astype(np.int64)


def trained(
    contract: Contract, sums: int, state: dict[str, Any] | None = None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Makes so many sums over both sites; returns the adapter and the server's state."""
    sites = [Site(contract, centre) for centre in CENTRES]
    server = ServerState(contract, START)
    if state is not None:
        server.restore(state)
    encoding = sites[0].encoding
    for _ in range(sums):
        start = server.start(encoding)
        total = sum((site.vector(start) for site in sites), np.zeros(len(START), np.uint32))
        server.step(encoding, total, len(sites))
    return server.adapter, server.state()
