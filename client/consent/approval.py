"""Approving a plan at a site: whether the site could go through with it, and the entry that says so.

What decides is what decides later: `consent` and the ledger's own budgets, asked about the whole plan.
"""

import math
from dataclasses import dataclass

from hortus.client.consent.refusals import budget_of, check_contract, check_model
from hortus.client.consent.terms import ChargeAccount, noise_of
from hortus.client.site.folder import Dataset, Site
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.decisions import Admitted, Approved, Consent, Withdrawn
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.runtime.errors import Refused, UsageError
from hortus.runtime.metric import finite
from hortus.runtime.moments import iso_time


@dataclass(frozen=True, slots=True)
class Consented:
    """What the ledger last says of a plan.

    Attributes:
        entry: Number of the entry.
        time: Seconds since the epoch.
        said: The approval, admission or withdrawal.
    """

    entry: int
    time: float
    said: Consent

    @property
    def is_in_force(self) -> bool:
        """Whether the site takes part in the plan."""
        return not isinstance(self.said, Withdrawn)

    def line(self) -> dict[str, object]:
        """Returns all of it as JSON has it: an ε that is infinite is None, as is whoever need not decide.

        A withdrawal has a reason; an approval has the unit, ε and δ of the whole plan alone.
        """
        said = self.said
        told: dict[str, object] = {"kind": said.kind, "name": said.name, "plan": said.plan}
        told |= {"entry": self.entry, "time": iso_time(self.time)}
        if isinstance(said, Withdrawn):
            return told | {"operator": said.operator, "reason": said.reason}
        cost = finite(said.epsilon)
        operator = said.operator if isinstance(said, Approved) else None
        return told | {
            "operator": operator,
            "unit": said.unit,
            "epsilon": cost,
            "delta": said.delta,
        }


def plan_epsilon(contract: Contract, delta: float) -> float:
    """Returns the most that a plan alone can cost at δ; infinite without noise.

    All its spare attempts count as used, and the noise is the plan's own, to which rounding in a sum of
    whatever size only adds.
    """
    noise = contract.privacy.noise_multiplier
    if noise is None:
        return math.inf
    return epsilon(
        {GaussianEvent(contract.training.sampling_rate, noise): contract.releases}, delta
    )


def approval(contract: Contract, delta: float, operator: str) -> Approved:
    """Makes the entry by which an operator approves a plan.

    Raises:
        ValueError: The name is empty or too long.
    """
    cost = plan_epsilon(contract, delta)
    name, unit = contract.name, contract.privacy.unit
    return Approved(contract.digest(), name, operator, unit, cost, delta)


def admitted(contract: Contract, delta: float) -> Admitted:
    """Makes the entry of a plan that policy.yaml allows without anybody having read it."""
    cost = plan_epsilon(contract, delta)
    return Admitted(contract.digest(), contract.name, contract.privacy.unit, cost, delta)


def check_terms(site: Site, contract: Contract) -> tuple[Dataset, Placement]:
    """Checks all but the budget of a plan that is taken to be approved; nothing is noted of the records.

    Returns:
        The site's records, and where they would be charged.

    Raises:
        Refused: The site would refuse the plan, whatever it costs.
        DataError: The records do not fit the plan.
    """
    check_contract(site.mandate.with_approved(contract), contract)
    check_model(contract, site.model_digest(contract))
    dataset, place = site.foresee(contract)
    if (reason := site.ledger.standing(place).frozen) is not None:
        # For the operator's terminal; the server does not learn why.
        raise Refused(f"the dataset is frozen: {reason}", remedy="See `hortus budget unfreeze`.")
    site.ledger.check(place, contract.privacy.unit)
    return dataset, place


def check_whole(site: Site, contract: Contract, encoding: PrivateStep) -> None:
    """Checks what the site would check before and while it takes part, of the whole plan at once.

    What was charged for the plan before is not asked for again.

    Args:
        site: The opened site.
        contract: The plan.
        encoding: Its steps.

    Raises:
        Refused: The site would refuse the plan, or one of its rounds.
        DataError: The records do not fit the plan.
    """
    dataset, place = check_terms(site, contract)
    budget = budget_of(site.mandate.with_approved(contract), contract)
    noise = noise_of(site.policy, observed=True)
    account = ChargeAccount(site.ledger, dataset.fingerprint, budget, noise, place)
    steps = contract.steps - charged_steps(site, contract, place)
    if reason := account.reason_to_refuse_rest(encoding, steps):
        raise Refused(
            reason,
            where="policy.yaml: budget",
            remedy="Allow more with `hortus budget grant SITE_DIR --epsilon … --reason …`, or ask for "
            "a plan with fewer rounds or more noise.",
        )


def charged_steps(site: Site, contract: Contract, place: Placement) -> int:
    """Returns how many steps were charged for a plan before, repeated attempts included."""
    account = site.ledger.standing(place).account
    tally = account.plans.get(contract.digest()) if account else None
    return sum(tally.history.values()) if tally else 0


def record(site: Site, contract: Contract, operator: str) -> Entry:
    """Signs an approval; a running agent follows at once.

    Raises:
        UsageError: The operator's name is empty or too long.
        HortusError: The ledger cannot be written.
    """
    try:
        body = approval(contract, site.policy.budget.delta, operator)
    except ValueError as error:
        raise UsageError(str(error), where="--by") from error
    site.keep_contract(contract)  # first: a running agent prepares for what it finds approved
    return site.ledger.record(body)


def approve_unasked(site: Site, contract: Contract, operator: str) -> None:
    """Approves a plan where nobody has to be asked, as in a simulation, unless it was before."""
    if contract.digest() not in site.ledger.consents():
        record(site, contract, operator)


def consented(ledger: Ledger) -> list[Consented]:
    """Returns what the ledger last says of each plan, the newest last."""
    found = []
    for entry in ledger.consents().values():
        assert isinstance(entry.body, Consent)  # noqa: S101 - that is what they are
        found.append(Consented(entry.seq, entry.time, entry.body))
    return found


def withdraw(ledger: Ledger, named: str, operator: str, reason: str) -> tuple[Entry, Withdrawn]:
    """Takes an approval, or what `auto_approve` admitted, back.

    Args:
        ledger: The site's.
        named: The plan's name, or the first digits of its hash.
        operator: Name of whoever withdraws it.
        reason: Why.

    Raises:
        UsageError: No such plan is taken part in, or several are, or the name or reason is too long.
        HortusError: The ledger cannot be written.
    """
    live = [one for one in consented(ledger) if one.is_in_force]
    found = [
        one.said
        for one in live
        if named and (one.said.name == named or one.said.plan.startswith(named))
    ]
    if len(found) != 1:
        known = ", ".join(f"{one.said.name} ({one.said.plan[:16]})" for one in live)
        raise UsageError(
            f"{len(found) or 'none'} of the plans that this site takes part in {'are' if found else 'is'} "
            f"called {named!r}, or has a hash that starts with it",
            where="--withdraw",
            remedy=f"It takes part in {known or 'no plan'}.",
        )
    try:
        body = Withdrawn(found[0].plan, found[0].name, operator, reason)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return ledger.record(body), body
