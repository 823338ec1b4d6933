"""ε of every scope of a ledger, recomputed by an accountant that shares nothing with the ledger's.

Every entry is checked against a Rényi bound. ε itself is recomputed (`recount`) before and after every entry
that lifts that bound by more than 1 %, and at the end of each run and scope; in between it neither
falls nor grows by more than from one to the next. Where it does not fit, the entries since the last time
are gone through one by one, so that the first wrong one is named.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.findings import Finding, broken
from hortus.privacy.audit.lineages import Accounts
from hortus.privacy.audit.recount import recount
from hortus.privacy.audit.renyi import ORDERS, Array, divergences, from_divergences, renyi_epsilon
from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.entries import Entry
from hortus.protocol.policy import Every, period_of

# The two accountants agree within a third of this; what is more is an error or a lie. Where ε is less
# than δ, as good as nothing, they agree within a share of δ.
_TOLERANCE = 1e-3
_SLACK_OF_DELTA = 1e-3
_CHECKPOINT_GROWTH = 1.01
# Less noise than this protects nobody (ε > 10⁵), and would divide by zero.
_LEAST_NOISE = 1e-3
# Rényi bounds over different orders differ by less.
_RENYI_TOLERANCE = 0.02
_DAY = 86_400

Scoped = tuple[Scope, str]  # a scope and, within it, the plan or the period


# Most rounds of a run cost the same.
@lru_cache(maxsize=1024)
def epsilon_alone(event: GaussianEvent, releases: int, delta: float) -> float:
    """Returns ε(δ) of this many releases alone."""
    history = {_with_some_noise(event): releases}
    return min(renyi_epsilon(history, delta), recount(history, delta))


# A plan's sites, and a dataset's scopes, mostly have the same releases behind them.
@lru_cache(maxsize=8192)
def _recounted(history: frozenset[tuple[GaussianEvent, int]], delta: float) -> float:
    return recount(dict(history), delta)


@dataclass(slots=True)
class _Pending:
    """A charge whose ε is between two that were recomputed."""

    seq: int
    charge: Charge
    claim: float


@dataclass(slots=True)
class _Tally:
    """What has been released within one scope."""

    divergences: Array = field(default_factory=lambda: np.zeros(len(ORDERS)))
    history: Counter[GaussianEvent] = field(default_factory=Counter)
    is_bare: bool = False
    delta: float = 0.0
    claim: float = 0.0
    checked: float = 0.0  # the Rényi bound when ε was last recomputed
    before: Counter[GaussianEvent] = field(default_factory=Counter)  # the history then
    pending: list[_Pending] = field(default_factory=list)
    passed_over: Counter[GaussianEvent] = field(default_factory=Counter)
    last: Charge | None = None

    def add(self, charge: Charge) -> None:
        """Counts a charge, and before it those that were passed over."""
        self.before.update(self.passed_over)
        for event, count in self.passed_over.items():
            self._count(event, count)
        self.passed_over.clear()
        self.last = charge
        if charge.is_private:
            self._count(_event(charge), charge.releases)
        else:
            self.is_bare = True

    def grows_by(self, charge: Charge) -> bool:
        """Returns whether a charge lifts the Rényi bound far above that of the last recomputation."""
        if not charge.is_private:
            return True
        more = self.divergences + charge.releases * divergences(_event(charge))
        return from_divergences(more, charge.delta) > self.checked * _CHECKPOINT_GROWTH

    def pass_over(self, charge: Charge) -> None:
        """Keeps a charge that has no level of this scope, at little cost, for when one has."""
        if charge.is_private:
            _add(self.passed_over, charge)
        else:
            self.is_bare = True

    def absorb(self, other: "_Tally") -> None:
        """Counts what another tally counted, whose ε was recomputed up to here, as this one's was."""
        self.history.update(other.history)
        self.divergences += other.divergences
        self.passed_over.update(other.passed_over)
        self.is_bare = self.is_bare or other.is_bare
        self.before, self.claim, self.checked = self.history.copy(), 0.0, 0.0

    def _count(self, event: GaussianEvent, count: int) -> None:
        self.history[event] += count
        self.divergences += count * divergences(event)


class Costs:
    """ε of every scope, recomputed.

    A charge counts in its plan and its periods also where the policy had no limit on them then, so that
    none is missing where it gets one.

    Attributes:
        compared: Levels on which there is a verdict.
    """

    def __init__(self, accounts: Accounts) -> None:
        self.compared = 0
        self._accounts = accounts
        self._tallies: dict[tuple[str, Scoped], _Tally] = {}
        self._last: tuple[str, float] = ("", 0.0)
        self._time = -math.inf

    def add(self, entry: Entry, charged: Charged) -> Iterator[Finding]:
        """Counts a charge; yields what does not fit, perhaps of entries before it."""
        charge = charged.charge
        self._time = max(self._time, entry.time)
        if (charge.run, charge.delta) != self._last:
            yield from self.finish()
        self._last = (charge.run, charge.delta)
        account = self._accounts.root(charged.account)
        yield from self._join(account, charged.joins)
        levels = {scoped(charge, level): level for level in charged.levels}
        for name in dict.fromkeys((*levels, *_scopes(charge, self._time))):
            tally = self._tallies.setdefault((account, name), _Tally())
            if name not in levels:
                yield from self._recompute(tally)
                tally.pass_over(charge)
                continue
            if tally.grows_by(charge):
                yield from self._recompute(tally)
            tally.add(charge)
            yield from self._compare(tally, entry, charge, levels[name])

    def _join(self, account: str, joins: Collection[str]) -> Iterator[Finding]:
        """Makes accounts one: whatever either has spent counts in both."""
        if not joins:
            return
        yield from self.finish()
        for joined, name in [key for key in self._tallies if key[0] in joins and key[0] != account]:
            other = self._tallies.pop((joined, name))
            self._tallies.setdefault((account, name), _Tally()).absorb(other)

    def finish(self) -> Iterator[Finding]:
        """Yields what does not fit of the entries since ε was last recomputed."""
        for tally in self._tallies.values():
            yield from self._recompute(tally)

    def _compare(
        self, tally: _Tally, entry: Entry, charge: Charge, level: Level
    ) -> Iterator[Finding]:
        if tally.is_bare:
            self.compared += 1
            if math.isfinite(level.epsilon):
                yield _less(entry.seq, level.epsilon, math.inf, charge.delta)
            return
        if charge.delta != tally.delta:
            tally.delta, tally.claim, tally.checked = charge.delta, 0.0, 0.0
        bound = from_divergences(tally.divergences, charge.delta)
        fell = level.epsilon < tally.claim * (1 - _TOLERANCE)
        if level.epsilon > bound * (1 + _RENYI_TOLERANCE) + _SLACK_OF_DELTA * charge.delta:
            self.compared += 1
            yield _more(entry.seq, level.epsilon, bound, charge.delta)
        else:
            tally.pending.append(_Pending(entry.seq, charge, level.epsilon))
        claim, tally.claim = tally.claim, level.epsilon
        if fell and tally.pending:
            # A grid that grew coarser may take back as much as the two accountants may differ.
            found = list(self._recompute(tally, one_by_one=True))
            yield from found or [_less(entry.seq, level.epsilon, claim, charge.delta)]
        elif bound > tally.checked * _CHECKPOINT_GROWTH:
            tally.checked = bound
            yield from self._recompute(tally)

    def _recompute(self, tally: _Tally, *, one_by_one: bool = False) -> Iterator[Finding]:
        """Compares the last ε with another accountant's; then, if need be, each since before."""
        pending, tally.pending = tally.pending, []
        if not pending:
            return
        self.compared += len(pending)
        before, tally.before = tally.before, tally.history.copy()
        is_newest = pending[-1].charge is tally.last
        if is_newest and not one_by_one and _misfit(pending[-1], tally.history) is None:
            return
        history = before.copy()
        for one in pending:
            _add(history, one.charge)
            misfit = _misfit(one, history)
            if misfit is not None:
                yield misfit
                return


def scoped(charge: Charge, level: Level) -> Scoped:
    """Returns what a charge's level is of."""
    return level.scope, charge.plan if level.scope is Scope.PLAN else level.period


def _scopes(charge: Charge, time: float) -> Iterator[Scoped]:
    """Yields everything, apart from the lifetime, that a charge at a time counts in."""
    yield Scope.PLAN, charge.plan
    for period in _periods(time // _DAY):
        yield Scope.PERIOD, period


def _misfit(one: _Pending, history: Mapping[GaussianEvent, int]) -> Finding | None:
    delta = one.charge.delta
    least, cost, most = claimable(history, delta)
    if one.claim < least:
        return _less(one.seq, one.claim, cost, delta)
    if one.claim > most:
        return _more(one.seq, one.claim, cost, delta)
    return None


def claimable(history: Mapping[GaussianEvent, int], delta: float) -> tuple[float, float, float]:
    """Returns the least ε that may be claimed of some releases, their ε, and the most."""
    history = {_with_some_noise(event): count for event, count in history.items()}
    cost, tolerance = _recounted(frozenset(history.items()), delta), _TOLERANCE
    if math.isinf(cost):  # δ is less than what floating point may err by
        cost, tolerance = renyi_epsilon(history, delta), _RENYI_TOLERANCE
    slack = _SLACK_OF_DELTA * delta
    return cost * (1 - tolerance) - slack, cost, cost * (1 + tolerance) + slack


def _add(history: Counter[GaussianEvent], charge: Charge) -> None:
    if charge.is_private:
        history[_event(charge)] += charge.releases


def _event(charge: Charge) -> GaussianEvent:
    return _made_event(charge.sampling_rate, charge.noise_multiplier)


@lru_cache(maxsize=1024)
def _made_event(sampling_rate: float, noise_multiplier: float) -> GaussianEvent:
    return _with_some_noise(GaussianEvent(sampling_rate, noise_multiplier))


@lru_cache(maxsize=1024)
def _periods(day: float) -> tuple[str, ...]:
    """Returns the labels of the periods that a day since 1970 falls in."""
    return tuple(period_of(day * _DAY, every) for every in Every)


def _with_some_noise(event: GaussianEvent) -> GaussianEvent:
    if event.noise_multiplier >= _LEAST_NOISE:
        return event
    return GaussianEvent(event.sampling_rate, _LEAST_NOISE)


def _less(entry: int, claim: float, cost: float, delta: float) -> Finding:
    return broken(
        entry,
        f"it says ε = {claim:.6g} at δ = {delta:g}; its entries up to here cost at least {cost:.6g}",
        "More was spent than the site admits, by a faulty program or on purpose.",
    )


def _more(entry: int, claim: float, cost: float, delta: float) -> Finding:
    return broken(
        entry,
        f"it says ε = {claim:.6g} at δ = {delta:g}; its entries up to here cost at most {cost:.6g}",
        "Entries of this dataset are missing from this ledger, or the program counts wrongly.",
    )
