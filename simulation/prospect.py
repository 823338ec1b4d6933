"""A plan before it runs: its contract, its numbers, and the budgets that it would draw on."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hortus.client.consent.approval import check_terms
from hortus.client.consent.refusals import budget_of
from hortus.client.site.folder import Site
from hortus.planning.prepare import noise_for, pin, trial
from hortus.privacy.accounting.forecast import PlanCost, SiteBudget
from hortus.privacy.ledger.books import Account, Tally
from hortus.privacy.sanity import doubts
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import period_of
from hortus.runtime.errors import Refused, UsageError


@dataclass(frozen=True)
class Prospect:
    """What is known of a plan before it runs.

    Attributes:
        plan: The plan.
        contract: Its binding part, with noise and model pinned.
        dimension: Adapter parameters.
        sites: Sites that are taken to be in a sum.
        encoding: A step's numbers with this many sites.
        cost: The releases.
        model_path: Folder of the base model, as the plan names it.
        kept_bytes: What a site keeps of what frozen layers make of a record, at most.
    """

    plan: Plan
    contract: Contract
    dimension: int
    sites: int
    encoding: PrivateStep
    cost: PlanCost
    model_path: Path
    kept_bytes: int

    @property
    def target(self) -> float | None:
        """The ε that the noise was chosen for, if it was."""
        return self.plan.privacy.epsilon

    @cached_property
    def unspared_noise(self) -> float | None:
        """The σ/C that would keep that ε without spare attempts; None where σ was not chosen for an ε."""
        if self.target is None:
            return None
        return noise_for(self.plan, self.target, self.plan.steps)


def prospect(plan: Plan, folder: Path, sites: int | None) -> Prospect:
    """Works out a plan's numbers.

    Args:
        plan: The plan.
        folder: What a relative model path is relative to.
        sites: Sites in a sum; None: those of the simulation, or the smallest cohort.

    Raises:
        UsageError: Plan or model cannot be used, or the sites are fewer than the plan's minimum.
    """
    count = _known_sites(plan) if sites is None else sites
    if count < plan.cohort.minimum:
        raise UsageError(
            f"{count} sites are fewer than the plan's {plan.cohort.minimum}",
            where="cohort.minimum" if sites is None else "--sites",
        )
    contract, model_path = pin(plan, folder)
    dimension, kept_bytes = trial(contract, model_path)
    encoding = PrivateStep.of(contract, dimension, count)
    cost = PlanCost.of(encoding.event, contract)
    return Prospect(plan, contract, dimension, count, encoding, cost, model_path, kept_bytes)


def site_budgets(
    what: Prospect, epsilon: float | None, delta: float | None, directory: Path | None
) -> list[SiteBudget]:
    """Returns the budgets to hold the plan against.

    Args:
        what: The plan.
        epsilon: A budget that every site is taken to have; None: the plan's own ε.
        delta: Its δ; None: the plan's.
        directory: A real site's folder, whose policy and ledger count instead; see `budgets_at`.

    Raises:
        UsageError: The site's folder cannot be used.
        HortusError: Its ledger was altered.
    """
    if directory is not None:
        with Site(directory, clock=time.time, alone=True) as site:
            return budgets_at(site, what.contract)
    privacy = what.plan.privacy
    at = privacy.delta if delta is None else delta
    own = epsilon or what.target or what.cost.epsilon(privacy.delta)
    single = what.plan.simulation.budgets if what.plan.simulation else {}
    if not single:
        return [SiteBudget("every site", own, at, {})]
    rehearsed = [SiteBudget(site, limit, at, {}) for site, limit in sorted(single.items())]
    return [SiteBudget("every other site", own, at, {}), *rehearsed]


def refusal_at(what: Prospect, directory: Path) -> str:
    """Returns why a site would refuse a contract that its operator approved, whatever its cost, if so.

    Raises:
        UsageError: The site's folder cannot be used.
    """
    with Site(directory, clock=time.time, model=what.model_path, alone=True) as site:
        try:
            check_terms(site, what.contract)
        except Refused as refused:
            return str(refused)
    return ""


def units_at(what: Prospect, directory: Path) -> int:
    """Returns how many units a site's records have; for its operator's eyes only.

    Raises:
        UsageError: The site's folder cannot be used.
    """
    with Site(directory, clock=time.time, alone=True) as site:
        return site.records(what.contract).unit_count


def doubts_about(what: Prospect, units: int | None) -> tuple[str, ...]:
    """Returns what of a plan deserves a second look, at a site of one's own if its units are given."""
    invited = _known_sites(what.plan) if what.plan.simulation else None
    cost = what.cost
    history = {cost.event: cost.releases} if cost.event else {}
    epsilon = cost.epsilon(what.contract.privacy.delta)
    return doubts(what.contract, history, epsilon, invited, units)


def budgets_at(site: Site, contract: Contract) -> list[SiteBudget]:
    """Returns a site's limits over all plans, and on one plan and one period if it has them.

    There are none where the site's budget, or what was spent of it, protects another unit: their losses
    cannot be added up.
    """
    _, place = site.foresee(contract)
    budget = budget_of(site.mandate.with_approved(contract), contract)
    standing, unit = site.ledger.standing(place), contract.privacy.unit
    account = standing.account or Account(unit)
    if {budget.unit, account.unit} != {unit}:
        return []
    limits = [(site.name, budget.epsilon + standing.granted, account.lifetime)]
    if budget.per_plan is not None:
        tally = account.plans.get(contract.digest(), Tally())
        limits.append((f"{site.name}, this plan", budget.per_plan, tally))
    if budget.per_period is not None:
        period = period_of(time.time(), budget.per_period.every)
        tally = account.periods.get(period, Tally())
        limits.append((f"{site.name}, {period}", budget.per_period.epsilon, tally))
    return [
        SiteBudget(name, limit, budget.delta, dict(tally.history), tally.is_bare)
        for name, limit, tally in limits
    ]


def _known_sites(plan: Plan) -> int:
    simulation = plan.simulation
    if simulation is None:
        return plan.cohort.minimum
    if simulation.sites is not None:
        return len(simulation.sites)
    assert simulation.partition is not None  # noqa: S101 - the schema says so
    return simulation.partition.sites or plan.cohort.minimum
