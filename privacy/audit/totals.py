"""What an audited ledger adds up to: by account, and by plan within it."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.auditor import Audit
from hortus.privacy.audit.costs import claimable
from hortus.privacy.audit.rounds import RoundRow
from hortus.privacy.ledger.charges import Charge


@dataclass(frozen=True, slots=True)
class AccountTotal:
    """The final state of an account.

    Attributes:
        dataset: The account.
        unit: The privacy unit.
        epsilon: ε of everything released from it, as the ledger has it.
        delta: δ of that ε.
        limit: The lifetime limit when something was charged last; infinite if none was recorded.
        rounds: Rounds that anything was charged in.
        releases: Compositions.
        unsent: Charges whose vector the server is not known to have taken.
        refusals: Refusals in these rounds.
        began: Time of the first entry.
        ended: Time of the last.
    """

    dataset: str
    unit: str
    epsilon: float
    delta: float
    limit: float
    rounds: int
    releases: int
    unsent: int
    refusals: int
    began: float
    ended: float

    @property
    def left(self) -> float:
        """What the limit still allowed."""
        return max(0.0, self.limit - self.epsilon)


@dataclass(frozen=True, slots=True)
class PlanTotal:
    """What a plan took of an account.

    Attributes:
        plan: Hash of the contract.
        name: Its name; None if nobody has stated it.
        dataset: The account.
        unit: The privacy unit.
        runs: Runs of it.
        rounds: Rounds that anything was charged in.
        releases: Compositions.
        epsilon: ε of its releases alone, recomputed.
        delta: δ of that ε.
        began: Time of the first entry.
        ended: Time of the last.
    """

    plan: str
    name: str | None
    dataset: str
    unit: str
    runs: int
    rounds: int
    releases: int
    epsilon: float
    delta: float
    began: float
    ended: float


def account_totals(audit: Audit) -> list[AccountTotal]:
    """Returns the accounts in the order in which they were opened."""
    return [_account_total(account, rows) for account, rows in account_rows(audit).items()]


def account_rows(audit: Audit) -> dict[str, list[RoundRow]]:
    """Returns the rounds of each account as it is in the end, those of joined accounts included."""
    found: dict[str, list[RoundRow]] = {}
    for row in audit.rounds:
        found.setdefault(audit.accounts.get(row.dataset, row.dataset), []).append(row)
    return found


def _account_total(account: str, rows: list[RoundRow]) -> AccountTotal:
    last = rows[-1]
    return AccountTotal(
        dataset=account,
        unit=last.unit,
        epsilon=last.epsilon_so_far,
        delta=last.delta,
        limit=last.limit,
        rounds=len({(row.run, row.round) for row in rows if row.releases}),
        releases=sum(row.releases for row in rows),
        unsent=sum(row.unsent for row in rows),
        refusals=sum(row.refusals for row in rows),
        began=min(row.began for row in rows),
        ended=max(row.ended for row in rows),
    )


def plan_totals(audit: Audit) -> list[PlanTotal]:
    """Returns the plans of each account, in the order in which they were first charged."""
    groups: dict[tuple[str, str], list[RoundRow]] = {}
    for account, rows in account_rows(audit).items():
        for row in rows:
            groups.setdefault((account, row.plan), []).append(row)
    return [_plan_total(audit, account, plan, rows) for (account, plan), rows in groups.items()]


def _plan_total(audit: Audit, account: str, plan: str, rows: list[RoundRow]) -> PlanTotal:
    last = rows[-1]
    return PlanTotal(
        plan=plan,
        name=audit.names.get(plan),
        dataset=account,
        unit=last.unit,
        runs=len({row.run for row in rows}),
        rounds=len({(row.run, row.round) for row in rows if row.releases}),
        releases=sum(row.releases for row in rows),
        epsilon=_epsilon(list(_charges(audit, account, plan)), last.delta),
        delta=last.delta,
        began=min(row.began for row in rows),
        ended=max(row.ended for row in rows),
    )


def _charges(audit: Audit, account: str, plan: str) -> Iterator[Charge]:
    return (c for c in audit.charges if c.plan == plan and audit.accounts[c.dataset] == account)


def _epsilon(charges: list[Charge], delta: float) -> float:
    if not all(charge.is_private for charge in charges):
        return math.inf
    history: Counter[GaussianEvent] = Counter()
    for charge in charges:
        history[charge.event] += charge.releases
    return claimable(history, delta)[1] if history else 0.0
