"""What a site's ledger says, as its operator looks at it: pure functions of the entries.

Nothing is verified beyond what reading an entry verifies; `audit` recomputes every ε.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hortus.client.consent.approval import Consented
from hortus.client.operator.accounts import AccountLine
from hortus.pages.plots import Plot, Points
from hortus.privacy.ledger.books import Account, Books
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.decisions import (
    EVERY_DATASET,
    Admitted,
    Approved,
    Consent,
    Declined,
    Disjoint,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.lineages import Placement
from hortus.protocol.policy import Budget, period_of
from hortus.runtime.moments import moment

_HEX_SHOWN = 8
_POINTS_SHOWN = 500


@dataclass(frozen=True, slots=True)
class DatasetLine(AccountLine):
    """A dataset's account at the moment of the view.

    Attributes:
        period: Label, ε and limit of the present calendar period; None where the policy sets none.
    """

    period: tuple[str, float, float] | None


@dataclass(frozen=True, slots=True)
class PlanLine(Consented):
    """What was last decided on a plan, and what it has taken since.

    Attributes:
        spent: ε of its releases alone, at the policy's δ; of several datasets the largest.
        rounds: Rounds that anything was charged in.
    """

    spent: float
    rounds: int

    @property
    def decision(self) -> str:
        """Says who decided what."""
        match self.said:
            case Approved():
                return f"approved by {self.said.operator}"
            case Admitted():
                return "allowed unread by auto_approve of policy.yaml"
            case Withdrawn():
                return f"withdrawn by {self.said.operator}: {self.said.reason}"


@dataclass(frozen=True, slots=True)
class RoundLine:
    """A round that the site took part in.

    Attributes:
        plan: Hash of the plan.
        run: The run.
        round: From 1.
        time: When it was last charged for, in seconds since the epoch.
        sums: Secure sums that were charged, repeated ones included.
        epsilon: ε of everything released from the dataset after it; infinite without noise.
    """

    plan: str
    run: str
    round: int
    time: float
    sums: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class RefusalLine:
    """A time in which the site refused a plan.

    Attributes:
        plan: Hash of the plan.
        round: From 1; None where no run was opened yet.
        since: Of the first refusal, in seconds since the epoch.
        until: Of the last.
        times: How many were written down.
        reason: The last one.
        outcome: What ended it; empty while it lasts.
    """

    plan: str
    round: int | None
    since: float
    until: float
    times: int
    reason: str
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """What the operator decided on a dataset's budget.

    Attributes:
        time: Seconds since the epoch.
        dataset: The dataset; `EVERY_DATASET` for all.
        what: The decision.
        reason: Why.
    """

    time: float
    dataset: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A ledger at one moment.

    Attributes:
        entries: How many there are.
        datasets: In the order in which they were opened.
        plans: The newest decision first.
        rounds: The newest first.
        refusals: Those that last first, then the newest first.
        decisions: The newest first.
        spent: ε over time of each account.
        limits: Its limit over time.
    """

    entries: int
    datasets: tuple[DatasetLine, ...]
    plans: tuple[PlanLine, ...]
    rounds: tuple[RoundLine, ...]
    refusals: tuple[RefusalLine, ...]
    decisions: tuple[DecisionLine, ...]
    spent: Mapping[str, Points]
    limits: Mapping[str, Points]

    @property
    def names(self) -> dict[str, str]:
        """The names of the plans, by their hash."""
        return {line.said.plan: line.said.name for line in self.plans}


def view_ledger(entries: Sequence[Entry], books: Books, budget: Budget, now: float) -> LedgerView:
    """Makes a view of a ledger.

    Args:
        entries: All of them, in order.
        books: What they add up to.
        budget: What the policy allows now.
        now: Seconds since the epoch.
    """
    rounds = _rounds(entries)
    history = _History()
    for entry in entries:
        history.add(entry)
    statements = {e.body.dataset: e.body for e in entries if isinstance(e.body, Disjoint)}
    datasets = tuple(
        _dataset(name, account, books, budget, now, statements.get(name))
        for name, account in books.accounts.items()
    )
    for line in datasets:
        history.end(line, now)
    return LedgerView(
        entries=len(entries),
        datasets=datasets,
        plans=tuple(_plan(e, books, budget, rounds) for e in reversed(books.consents.values())),
        rounds=tuple(reversed(rounds)),
        refusals=_refusals(entries, books.consents),
        decisions=tuple(reversed([d for e in entries if (d := _decision(e)) is not None])),
        spent={name: _thinned(points) for name, points in history.spent.items()},
        limits={name: _thinned(points) for name, points in history.limits.items()},
    )


def epsilon_plot(view: LedgerView) -> Plot:
    """ε of each dataset over time, and its limit."""
    bare = any(math.isinf(line.spent) for line in view.datasets)
    only = len(view.spent) == 1

    def named(what: str, dataset: str) -> str:
        return what if only else f"{what}, dataset {dataset[:_HEX_SHOWN]}"

    return Plot(
        "spent",
        "ε",
        {named("spent", name): points for name, points in view.spent.items() if points},
        remark="Something was released without noise." if bare else "Nothing was released yet.",
        over="time, UTC",
        steps={
            named("limit", name): points
            for name, points in view.limits.items()
            if view.spent.get(name)
        },
        is_dated=True,
    )


class _History:
    """Follows ε and limit of each account, entry after entry."""

    def __init__(self) -> None:
        self.spent: dict[str, list[tuple[float, float]]] = {}
        self.limits: dict[str, list[tuple[float, float]]] = {}

    def add(self, entry: Entry) -> None:
        """Follows an entry."""
        match entry.body:
            case Charged(_, account) as charged:
                _put(self.spent, account, entry.time, charged.epsilon_after)
                _put(self.limits, account, entry.time, charged.levels[0].limit)
            case Granted(dataset, more):
                for account in self.limits if dataset == EVERY_DATASET else [dataset]:
                    if points := self.limits.get(account):
                        _put(self.limits, account, entry.time, points[-1][1] + more)

    def end(self, line: DatasetLine, now: float) -> None:
        """Draws what an account has, and may have, out to the present."""
        if points := self.spent.get(line.dataset):
            limits = self.limits.get(line.dataset, points)
            until = max(now, points[-1][0], limits[-1][0])
            _put(self.spent, line.dataset, until, points[-1][1])
            _put(self.limits, line.dataset, until, line.limit)


def _put(curves: dict[str, list[tuple[float, float]]], name: str, x: float, y: float) -> None:
    if math.isfinite(y):
        curves.setdefault(name, []).append((x, y))


def _thinned(points: Sequence[tuple[float, float]], most: int = _POINTS_SHOWN) -> Points:
    """Returns the last point and others at even distances: no more than a screen has dots."""
    step = -(-len(points) // most)
    return tuple(points[(len(points) - 1) % step :: step]) if points else ()


def _dataset(
    name: str,
    account: Account,
    books: Books,
    budget: Budget,
    now: float,
    statement: Disjoint | None,
) -> DatasetLine:
    place, period = Placement(name), None
    if budget.per_period is not None:
        label = period_of(max(now, books.time), budget.per_period.every)
        tally = account.periods.get(label)
        spent = tally.epsilon(budget.delta) if tally else 0.0
        period = (label, spent, budget.per_period.epsilon)
    return DatasetLine(
        dataset=name,
        unit=account.unit,
        spent=account.lifetime.epsilon(budget.delta),
        limit=budget.epsilon + books.granted(place),
        period=period,
        frozen=books.frozen(place),
        statement=statement,
    )


def _plan(entry: Entry, books: Books, budget: Budget, rounds: Iterable[RoundLine]) -> PlanLine:
    assert isinstance(entry.body, Consent)  # noqa: S101 - that is what they are
    plan = entry.body.plan
    tallies = [a.plans[plan] for a in books.accounts.values() if plan in a.plans]
    return PlanLine(
        entry.seq,
        entry.time,
        entry.body,
        spent=max((tally.epsilon(budget.delta) for tally in tallies), default=0.0),
        rounds=len({(line.run, line.round) for line in rounds if line.plan == plan}),
    )


def _rounds(entries: Iterable[Entry]) -> list[RoundLine]:
    """Returns the rounds that anything was charged in, in the order of their last charge."""
    found: dict[tuple[str, int], RoundLine] = {}
    for entry in entries:
        if isinstance(entry.body, Charged):
            charge, after = entry.body.charge, entry.body.epsilon_after
            key = (charge.run, charge.round)
            before = found.pop(key, None)
            sums = 1 + (before.sums if before else 0)
            found[key] = RoundLine(
                charge.plan, charge.run, charge.round + 1, entry.time, sums, after
            )
    return list(found.values())


def _refusals(entries: Iterable[Entry], consents: Mapping[str, Entry]) -> tuple[RefusalLine, ...]:
    """Makes one line of all refusals of a plan until something was released for it, or it was approved."""
    lines: list[RefusalLine] = []
    open_: dict[str, int] = {}
    for entry in entries:
        match entry.body:
            case Declined() as refusal:
                if refusal.plan not in open_:
                    open_[refusal.plan] = len(lines)
                    lines.append(_refused(refusal, entry.time, entry.time, 1))
                else:
                    last = lines[open_[refusal.plan]]
                    again = _refused(refusal, last.since, entry.time, last.times + 1)
                    lines[open_[refusal.plan]] = again
            case Charged(charge) if charge.plan in open_:
                place = open_.pop(charge.plan)
                lines[place] = replace(lines[place], outcome=f"took part again {_on(entry)}")
            case Approved(plan) if plan in open_:
                place = open_.pop(plan)
                lines[place] = replace(lines[place], outcome=f"approved {_on(entry)}")
    for plan, place in open_.items():
        said = consents.get(plan)
        if said is not None and isinstance(said.body, Withdrawn):
            lines[place] = replace(lines[place], outcome=f"the plan was withdrawn {_on(said)}")
    newest = sorted(lines, key=lambda line: -line.until)
    return tuple(sorted(newest, key=lambda line: bool(line.outcome)))


def _refused(refusal: Declined, since: float, until: float, times: int) -> RefusalLine:
    number = refusal.round + 1 if refusal.run else None
    return RefusalLine(refusal.plan, number, since, until, times, refusal.reason)


def _on(entry: Entry) -> str:
    return f"on {moment(entry.time)}"


def _decision(entry: Entry) -> DecisionLine | None:
    match entry.body:
        case Granted(dataset, more, reason):
            return DecisionLine(entry.time, dataset, f"allowed ε {more:g} more", reason)
        case Frozen(dataset, reason):
            return DecisionLine(entry.time, dataset, "froze it", reason)
        case Unfrozen(dataset, reason):
            return DecisionLine(entry.time, dataset, "took the freeze back", reason)
        case Disjoint(dataset, others, operator, reason):
            names = ", ".join(other[:_HEX_SHOWN] for other in others)
            what = f"stated that it holds nobody of {names} ({operator})"
            return DecisionLine(entry.time, dataset, what, reason)
        case _:
            return None
