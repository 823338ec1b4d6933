"""A plan against a party: does it fit what is here, and would the site's own policy and budget let it run?"""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from hortus.client.operator.checks import check_plan
from hortus.client.site.folder import Site
from hortus.parties.checks import Check, Outcome, guarded
from hortus.parties.folders import SiteFiles
from hortus.planning.prepare import prepare
from hortus.protocol.plan import Plan
from hortus.runtime.errors import HortusError
from hortus.simulation.prospect import prospect, refusal_at, site_budgets


def check_plan_at_server(plan: Plan, path: Path) -> Check:
    """The plan can be prepared: its model is there, and there is noise for its ε."""
    what = f"{plan.name}: plan"

    def look() -> Check:
        contract, _ = prepare(plan, path.resolve().parent)
        return Check(what, Outcome.OK, f"it can be served, as {contract.digest()[:16]}…")

    return guarded(what, look)


def check_kept_plans(files: SiteFiles) -> Iterator[Check]:
    """Every plan that the site has kept fits its model and records."""
    try:
        site = Site(files.directory, clock=time.time)
    except HortusError as error:
        yield Check("plans", Outcome.UNTRIED, f"the site does not open: {error}")
        return
    with closing(site.ledger):
        contracts = [site.kept_contract(plan) for plan in sorted(site.kept_contracts())]
        if not contracts:
            said = "none is approved yet"
            yield Check("plans", Outcome.OK, said, "hortus check SITE_DIR PLAN looks at one.")
        for contract in contracts:
            if contract is not None:
                yield from check_plan(site, contract)


def check_plan_at_site(files: SiteFiles, plan: Plan, path: Path) -> Iterator[Check]:
    """A plan fits model and records, the policy allows it, and the budget covers all of its rounds."""
    try:
        what = prospect(plan, path.resolve().parent, None)
        site = Site(files.directory, clock=time.time, model=what.model_path)
    except HortusError as error:
        yield Check(f"{plan.name}: plan", Outcome.PROBLEM, str(error))
        return
    with closing(site.ledger):
        yield from check_plan(site, what.contract)
    told = f"{plan.name}: policy"

    def policy() -> Check:
        refusal = refusal_at(what, files.directory)
        if refusal:
            return Check(
                told, Outcome.PROBLEM, refusal, "hortus plan show says what the plan asks."
            )
        return Check(told, Outcome.OK, "it allows the plan, once approved")

    yield guarded(told, policy)
    if not what.contract.privacy.noise_multiplier:
        return
    try:
        budgets = site_budgets(what, None, None, files.directory)
    except HortusError as error:
        yield Check(f"{plan.name}: budget", Outcome.PROBLEM, str(error))
        return
    for budget in budgets:
        yield of_rounds(f"{plan.name}: budget", what.cost.forecast(budget).rounds, plan)


def of_rounds(what: str, covered: int, plan: Plan) -> Check:
    """Says whether a budget covers all rounds of a plan."""
    rounds = plan.training.rounds
    if covered >= rounds:
        return Check(what, Outcome.OK, f"it covers all {rounds} rounds")
    said = f"it covers {covered} of {rounds} rounds"
    remedy = (
        "Ask for a plan that costs less, or hortus budget grant adds to the budget, for a reason."
    )
    return Check(what, Outcome.PROBLEM, said, remedy)
