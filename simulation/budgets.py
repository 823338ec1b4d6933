"""What virtual sites may spend."""

from collections.abc import Sequence

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.errors import UsageError


def budgets(plan: Plan, contract: Contract, sites: Sequence[str]) -> dict[str, float]:
    """Returns each virtual site's ε: what the plan claims, or what it rehearses for the site.

    Raises:
        UsageError: The plan rehearses the budget of a site that does not exist.
    """
    claim, noise_multiplier = 1.0, contract.privacy.noise_multiplier
    if noise_multiplier is not None:
        # The plan's own: what rounding adds to it depends on how many sites are in a sum.
        event = GaussianEvent(plan.training.sampling_rate, noise_multiplier)
        claim = epsilon({event: plan.releases}, plan.privacy.delta)
    rehearsed = plan.simulation.budgets if plan.simulation else {}
    for site in set(rehearsed) - set(sites):
        raise UsageError(
            f"there is no site {site!r}, only {', '.join(sites)}", where="simulation.budgets"
        )
    return dict.fromkeys(sites, plan.privacy.epsilon or claim) | rehearsed
