"""A plan before it runs: its contract, its numbers, and the budgets that it would draw on."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from hortus.client.consent import check_contract, check_model
from hortus.client.site import Site
from hortus.learning.adapters import AdapterSpace, attach
from hortus.learning.models import load_base
from hortus.privacy.encoding import StepEncoding, releases_per_sum, sums_per_round
from hortus.privacy.forecast import PlanCost, SiteBudget
from hortus.protocol.errors import Refused, UsageError
from hortus.protocol.plan import Contract, Plan
from hortus.server.prepare import prepare


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of a plan before it runs.

    Attributes:
        plan: The plan.
        contract: Its binding part, with noise and model pinned.
        dimension: Adapter parameters.
        sites: Sites that are taken to be in a sum.
        encoding: A step's numbers with so many sites.
        cost: The releases.
    """

    plan: Plan
    contract: Contract
    dimension: int
    sites: int
    encoding: StepEncoding
    cost: PlanCost

    @property
    def target(self) -> float | None:
        """The ε that the noise was chosen for, if it was."""
        return self.plan.privacy.epsilon

    @property
    def sums(self) -> int:
        """Secure sums in the whole plan."""
        return self.contract.training.rounds * sums_per_round(self.contract)


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
    contract, model_path = prepare(plan, folder)
    model = attach(
        load_base(model_path, plan.task, plan.training.precision), plan.adapter, plan.seed
    )
    dimension = AdapterSpace(model).dimension
    encoding = StepEncoding.of(contract, dimension, count)
    per_round = sums_per_round(contract) * releases_per_sum(contract)
    cost = PlanCost(encoding.event, per_round, contract.training.rounds)
    return Prospect(plan, contract, dimension, count, encoding, cost)


def site_budgets(
    what: Prospect, epsilon: float | None, delta: float | None, directory: Path | None
) -> list[SiteBudget]:
    """Returns the budgets to hold the plan against.

    Args:
        what: The plan.
        epsilon: A budget that every site is taken to have; None: the plan's own ε.
        delta: Its δ; None: the plan's.
        directory: A real site's folder, whose policy and ledger count instead.

    Raises:
        UsageError: The site's folder cannot be used.
        HortusError: Its ledger was altered.
    """
    if directory is not None:
        return [_of_site(what.contract, directory)]
    privacy = what.plan.privacy
    at = privacy.delta if delta is None else delta
    own = epsilon or what.target or what.cost.epsilon(privacy.delta)
    single = what.plan.simulation.budgets if what.plan.simulation else {}
    if not single:
        return [SiteBudget("every site", own, at, {})]
    rehearsed = [SiteBudget(site, limit, at, {}) for site, limit in sorted(single.items())]
    return [SiteBudget("every other site", own, at, {}), *rehearsed]


def refusal_at(contract: Contract, directory: Path) -> str:
    """Returns why a site's policy would refuse a contract that its operator approved, if it would.

    Raises:
        UsageError: The site's folder cannot be used.
    """
    with Site(directory, clock=time.time) as site:
        approved = site.policy.model_copy(update={"approved_plans": (contract.digest(),)})
        try:
            check_contract(approved, contract)
            check_model(contract, site.model_digest(contract))
        except Refused as refused:
            return str(refused)
        return ""


def _of_site(contract: Contract, directory: Path) -> SiteBudget:
    with Site(directory, clock=time.time) as site:
        dataset = site.fingerprint(site.records(contract))
        policy = site.policy.budget
        spent = site.ledger.spent(dataset, policy.delta)
        return SiteBudget(
            site=site.name,
            epsilon=policy.epsilon,
            delta=policy.delta,
            history=site.ledger.history(dataset),
            unbounded=math.isinf(spent),
        )


def _known_sites(plan: Plan) -> int:
    simulation = plan.simulation
    if simulation is None:
        return plan.cohort.minimum
    if simulation.sites is not None:
        return len(simulation.sites)
    assert simulation.partition is not None  # noqa: S101 - the schema says so
    return simulation.partition.sites or plan.cohort.minimum
