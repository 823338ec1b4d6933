"""The table of strategies."""

from hortus.protocol.plan import Agreement
from hortus.runtime.registry import Registry
from hortus.strategies.base import Strategy

STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    ("strategy",),
    "hortus.strategies",
    {
        "fedsgd": "hortus.strategies.fedsgd:FedSGD",
        "fedavg": "hortus.strategies.fedavg:FedAvg",
        "fedprox": "hortus.strategies.fedprox:FedProx",
    },
    default="fedsgd",
)


def strategy_of(plan: Agreement) -> Strategy:
    """Returns a plan's or a contract's strategy, which fits the rest of it.

    Raises:
        UsageError: There is no such strategy, or it is not sound for this plan.
        HortusError: It is another here than in the contract.
    """
    strategy = STRATEGIES.parse(plan.strategy)
    strategy.fit(plan)
    return strategy
