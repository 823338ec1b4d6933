"""What a ledger's entries add up to, and what a further charge would: pure functions of the entries."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hortus.privacy.accounting import epsilon
from hortus.privacy.entries import (
    EVERY_DATASET,
    Charge,
    Charged,
    Declined,
    Entry,
    Frozen,
    Granted,
    Level,
    Scope,
    Unfrozen,
)
from hortus.privacy.events import GaussianEvent
from hortus.protocol.errors import Refused
from hortus.protocol.policy import Budget, Every, period_of


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
    """A dataset's releases, all together and by plan and calendar period.

    Attributes:
        unit: The privacy unit of them all.
        lifetime: All of them.
        plans: Those of each contract, by its hash.
        periods: Those of each month, quarter and year, by its label.
    """

    unit: str
    lifetime: Tally = field(default_factory=Tally)
    plans: dict[str, Tally] = field(default_factory=dict)
    periods: dict[str, Tally] = field(default_factory=dict)

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
        accounts: By dataset.
        refused: Refusals since the last entry of another kind.
    """

    def __init__(self) -> None:
        self.time = -math.inf
        self.accounts: dict[str, Account] = {}
        self.refused: list[Declined] = []
        self._granted: dict[str, float] = {}
        self._frozen: dict[str, str] = {}

    def add(self, entry: Entry) -> None:
        """Counts an entry."""
        self.time = max(self.time, entry.time)
        if not isinstance(entry.body, Declined):
            self.refused.clear()
        match entry.body:
            case Charged(charge):
                self._add_charge(charge)
            case Granted(dataset, more):
                self._granted[dataset] = self._granted.get(dataset, 0.0) + more
            case Frozen(dataset, reason):
                self._frozen[dataset] = reason
            case Unfrozen(dataset):
                self._frozen.pop(dataset, None)
            case Declined() as refusal:
                self.refused.append(refusal)

    def granted(self, dataset: str) -> float:
        """Returns what grants have added to a dataset's lifetime budget."""
        return self._granted.get(dataset, 0.0) + self._granted.get(EVERY_DATASET, 0.0)

    def frozen(self, dataset: str) -> str | None:
        """Returns why nothing may be released from a dataset; None if it may."""
        return self._frozen.get(dataset, self._frozen.get(EVERY_DATASET))

    def check(self, charge: Charge) -> None:
        """Checks what no budget can buy.

        Raises:
            Refused: The dataset is frozen, or was charged by another unit before. The server hears
                it, so no fingerprint is in it: that would tell when the records have changed.
        """
        if self.frozen(charge.dataset) is not None:
            raise Refused(
                "the site's operator has frozen the dataset",
                remedy="Nothing was sent. `hortus budget show SITE_DIR` says why.",
            )
        account = self.accounts.get(charge.dataset)
        if account is not None and account.unit != charge.unit:
            raise Refused(
                f"releases so far protect a {account.unit}: their loss cannot be added to one that "
                f"protects a {charge.unit}",
                remedy=f"Take part in plans with privacy.unit: {account.unit}.",
            )

    def levels(
        self, charge: Charge, budget: Budget | None, now: float, held: Sequence[Charge] = ()
    ) -> tuple[Level, ...]:
        """Returns what a charge, and others held for the dataset, would bring each scope to.

        Args:
            charge: The charge.
            budget: What the site allows; None allows everything.
            now: Seconds since the epoch.
            held: Charges that are reserved and not made yet.
        """
        account = self.accounts.get(charge.dataset) or Account(charge.unit)
        every = budget.per_period.every if budget and budget.per_period else Every.YEAR
        period = period_of(max(now, self.time), every)
        levels = []
        for scope, limit in self._limits(charge.dataset, budget).items():
            others = [o for o in held if scope is not Scope.PLAN or o.plan == charge.plan]
            tally = account.tally(scope, charge, period).with_([*others, charge])
            label = period if scope is Scope.PERIOD else ""
            levels.append(Level(scope, label, tally.epsilon(charge.delta), limit))
        return tuple(levels)

    def _limits(self, dataset: str, budget: Budget | None) -> Mapping[Scope, float]:
        if budget is None:
            return {Scope.LIFETIME: math.inf}
        limits = {Scope.LIFETIME: budget.epsilon + self.granted(dataset)}
        if budget.per_plan is not None:
            limits[Scope.PLAN] = budget.per_plan
        if budget.per_period is not None:
            limits[Scope.PERIOD] = budget.per_period.epsilon
        return limits

    def _add_charge(self, charge: Charge) -> None:
        account = self.accounts.setdefault(charge.dataset, Account(charge.unit))
        account.lifetime.add(charge)
        account.plans.setdefault(charge.plan, Tally()).add(charge)
        for every in Every:
            account.periods.setdefault(period_of(self.time, every), Tally()).add(charge)


def exceeded(levels: Iterable[Level]) -> Level | None:
    """Returns the first level above its limit."""
    return next((level for level in levels if level.epsilon > level.limit), None)
