"""What a ledger's entries add up to, and what a further charge would bring, as pure functions of the entries."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.decisions import (
    EVERY_DATASET,
    Admitted,
    Approved,
    Declined,
    Disjoint,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.lineages import Lineages, Placement
from hortus.protocol.policy import Budget, Every, period_of
from hortus.runtime.errors import Refused


@dataclass(slots=True)
class Tally:
    """A multiset of releases.

    Attributes:
        history: How often each event was released.
        is_bare: Whether something was released without privacy.
    """

    history: dict[GaussianEvent, int] = field(default_factory=dict)
    is_bare: bool = False

    def add(self, charge: Charge) -> None:
        """Counts a charge."""
        if charge.is_private:
            event = charge.event
            self.history[event] = self.history.get(event, 0) + charge.releases
        else:
            self.is_bare = True

    def merge(self, other: "Tally") -> None:
        """Counts what another tally counts."""
        for event, count in other.history.items():
            self.history[event] = self.history.get(event, 0) + count
        self.is_bare = self.is_bare or other.is_bare

    def with_(self, charges: Iterable[Charge]) -> "Tally":
        """Returns a copy with more charges counted."""
        tally = Tally(dict(self.history), self.is_bare)
        for charge in charges:
            tally.add(charge)
        return tally

    def epsilon(self, delta: float) -> float:
        """Returns ε at δ; infinite where something was released without privacy."""
        return math.inf if self.is_bare else epsilon(self.history, delta)


@dataclass(slots=True)
class Account:
    """A lineage's releases, all together and by plan and calendar period.

    Attributes:
        unit: The privacy unit of them all.
        lifetime: All of them.
        plans: Those of each contract, by its hash.
        periods: Those of each month, quarter and year, by its label.
        entries: Numbers of the entries that charged them, in order.
    """

    unit: str
    lifetime: Tally = field(default_factory=Tally)
    plans: dict[str, Tally] = field(default_factory=dict)
    periods: dict[str, Tally] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)

    def merge(self, other: "Account") -> None:
        """Counts what was charged to another account."""
        self.lifetime.merge(other.lifetime)
        for own, others in ((self.plans, other.plans), (self.periods, other.periods)):
            for name, tally in others.items():
                own.setdefault(name, Tally()).merge(tally)
        self.entries = sorted([*self.entries, *other.entries])

    def was_charged(self, after: int, until: int) -> bool:
        """Returns whether an entry above the first number, up to the second, charged anything."""
        first = bisect_right(self.entries, after)
        return first < len(self.entries) and self.entries[first] <= until

    def tally(self, scope: Scope, charge: Charge, period: str) -> Tally:
        """Returns what a charge would be added to; an empty tally if it would be the first."""
        if scope is Scope.LIFETIME:
            return self.lifetime
        if scope is Scope.PLAN:
            return self.plans.get(charge.plan, Tally())
        return self.periods.get(period, Tally())


class Books:
    """The state of all accounts; `add` the entries in order.

    Attributes:
        time: The latest time of any entry: a clock that is set back opens no period again.
        accounts: By the fingerprint that an account goes by.
        lineages: Which account a content belongs to.
        refused: Refusals since the last entry of another kind.
        consents: The last entry on each plan that says whether it may be taken part in, the newest last.
    """

    def __init__(self) -> None:
        self.time = -math.inf
        self.accounts: dict[str, Account] = {}
        self.lineages = Lineages()
        self.refused: list[Declined] = []
        self.consents: dict[str, Entry] = {}
        self._granted: dict[str, float] = {}
        self._frozen: dict[str, str] = {}
        self._runs: dict[str, tuple[str, str]] = {}  # of each session, with the plan
        self._plans: dict[str, str] = {}  # of each run

    def add(self, entry: Entry) -> None:
        """Counts an entry."""
        self.time = max(self.time, entry.time)
        if not isinstance(entry.body, Declined):
            self.refused.clear()
        match entry.body:
            case Charged() as charged:
                self._add_charge(entry.seq, charged)
            case Granted(dataset, more):
                name = self.lineages.root(dataset)
                self._granted[name] = self._granted.get(name, 0.0) + more
            case Frozen(dataset, reason):
                self._frozen[self.lineages.root(dataset)] = reason
            case Unfrozen(dataset):
                self._frozen.pop(self.lineages.root(dataset), None)
            case Disjoint() as statement:
                self.lineages.add(statement)
            case Approved(plan) | Admitted(plan) | Withdrawn(plan):
                self.consents.pop(plan, None)
                self.consents[plan] = entry
            case Declined() as refusal:
                self.refused.append(refusal)

    def account(self, place: Placement) -> Account | None:
        """Returns what has been charged to an account and to those that join it; None if nothing has been."""
        found = [self.accounts[n] for n in (place.account, *place.joins) if n in self.accounts]
        if len(found) < 2:
            return found[0] if found else None
        together = Account(found[0].unit)
        for one in found:
            together.merge(one)
        return together

    def granted(self, place: Placement) -> float:
        """Returns what grants have added to a lifetime budget: where accounts join, the least."""
        names = (place.account, *place.joins)
        return min(self._granted.get(n, 0.0) for n in names) + self._granted.get(EVERY_DATASET, 0.0)

    def frozen(self, place: Placement) -> str | None:
        """Returns why nothing may be charged to an account; None if something may."""
        names = (place.account, *place.joins, EVERY_DATASET)
        return next((self._frozen[name] for name in names if name in self._frozen), None)

    def check(self, unit: str, place: Placement) -> None:
        """Checks what no budget can buy.

        Raises:
            Refused: The account is frozen, or was charged by another unit before. The server receives it, so it has no
            fingerprint, which would reveal when the records have changed.
        """
        if self.frozen(place) is not None:
            raise Refused(
                "the site's operator has frozen the dataset",
                remedy="Nothing was sent. `hortus budget show SITE_DIR` says why.",
            )
        for name in (place.account, *place.joins):
            account = self.accounts.get(name)
            if account is not None and account.unit != unit:
                raise Refused(
                    f"releases so far protect a {account.unit}; their loss cannot be added to that of a "
                    f"release that protects a {unit}",
                    remedy=f"Take part in plans with privacy.unit: {account.unit}.",
                )

    def check_plan(self, charge: Charge) -> None:
        """Checks that a session and a run are of one plan, which is not withdrawn from.

        It is not asked about a charge that is only considered.

        Raises:
            Refused: The session or run belongs to another plan, or the operator has withdrawn from it.
        """
        said = self.consents.get(charge.plan)
        if said is not None and isinstance(said.body, Withdrawn):
            raise Refused(
                "the site's operator has withdrawn from the plan",
                remedy="Nothing was sent. `hortus approve SITE_DIR --list` says when and why.",
            )
        of_session = (charge.run, charge.plan)
        if (
            self._runs.get(charge.session, of_session) != of_session
            or self._plans.get(charge.run, charge.plan) != charge.plan
        ):
            raise Refused(
                "the session or its run belonged to another plan before",
                remedy="The server must open a new session, and a new run for another plan.",
            )

    def levels(
        self,
        charge: Charge,
        place: Placement,
        budget: Budget | None,
        now: float,
        held: Sequence[Charge] = (),
    ) -> tuple[Level, ...]:
        """Returns what a charge, and others held for its account, would bring each scope to.

        Args:
            charge: The charge.
            place: Where it is charged.
            budget: What the site allows; None allows everything.
            now: Seconds since the epoch.
            held: Charges to the same account that are reserved and not made yet.
        """
        account = self.account(place) or Account(charge.unit)
        every = budget.per_period.every if budget and budget.per_period else Every.YEAR
        period = period_of(max(now, self.time), every)
        levels = []
        for scope, limit in self._limits(place, budget).items():
            others = [o for o in held if scope is not Scope.PLAN or o.plan == charge.plan]
            tally = account.tally(scope, charge, period).with_([*others, charge])
            label = period if scope is Scope.PERIOD else ""
            levels.append(Level(scope, label, tally.epsilon(charge.delta), limit))
        return tuple(levels)

    def _limits(self, place: Placement, budget: Budget | None) -> Mapping[Scope, float]:
        if budget is None:
            return {Scope.LIFETIME: math.inf}
        limits = {Scope.LIFETIME: budget.epsilon + self.granted(place)}
        if budget.per_plan is not None:
            limits[Scope.PLAN] = budget.per_plan
        if budget.per_period is not None:
            limits[Scope.PERIOD] = budget.per_period.epsilon
        return limits

    def _add_charge(self, seq: int, charged: Charged) -> None:
        charge = charged.charge
        self._runs.setdefault(charge.session, (charge.run, charge.plan))
        self._plans.setdefault(charge.run, charge.plan)
        self.lineages.add(charged)
        root = self.lineages.root(charged.account)
        account = self.accounts.setdefault(root, Account(charge.unit))
        for name in charged.joins:
            self._join(root, account, name)
        account.entries.append(seq)
        account.lifetime.add(charge)
        account.plans.setdefault(charge.plan, Tally()).add(charge)
        for every in Every:
            account.periods.setdefault(period_of(self.time, every), Tally()).add(charge)

    def _join(self, root: str, account: Account, name: str) -> None:
        """Puts an account into another: one budget, whatever the two have spent, and any freeze."""
        if name == root or name not in self.accounts:
            return
        joined = self.accounts.pop(name)
        account.merge(joined)
        granted = (self._granted.pop(name, 0.0), self._granted.pop(root, 0.0))
        self._granted[root] = min(granted)
        if (reason := self._frozen.pop(name, None)) is not None:
            self._frozen.setdefault(root, reason)


def exceeded(levels: Iterable[Level]) -> Level | None:
    """Returns the first level above its limit."""
    return next((level for level in levels if level.epsilon > level.limit), None)
