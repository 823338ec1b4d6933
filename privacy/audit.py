"""An audit of a site's evidence by other means than those that wrote it.

Numbers, chain, hashes, signatures and countersignatures are checked for every entry; limits, freezes
and periods are followed anew; and ε is recomputed with an accountant that shares nothing with the
ledger's (`recount`; Opacus's Rényi bound stands above both). It is recomputed whenever the Rényi
bound has grown by 1 %, and at the end of each run and scope; in between it cannot fall. Where it
does not fit, the entries since the last time are gone through one by one, so that the first wrong
one is named.
"""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from opacus.accountants.analysis.rdp import compute_rdp

from hortus.privacy.accounting import GaussianEvent
from hortus.privacy.books import period_of
from hortus.privacy.entries import (
    EVERY_DATASET,
    GENESIS,
    Charge,
    Charged,
    Entry,
    Frozen,
    Granted,
    Level,
    Scope,
    Unfrozen,
    content_hash,
)
from hortus.privacy.evidence import Evidence, Row
from hortus.privacy.recount import recount
from hortus.protocol.heads import Head
from hortus.protocol.identity import Roster
from hortus.protocol.plan import ClippingRule, Contract
from hortus.protocol.policy import Every

# The two accountants agree within a tenth of this; what is more is an error or a lie.
_TOLERANCE = 1e-3
_SLACK = 2e-5
_CHECKPOINT_GROWTH = 1.01
# Less noise than this is none (ε > 10⁵), and divides by zero.
_LEAST_NOISE = 1e-3
# Above this ε the ledger counts by Rényi divergences alone, and nothing is promised to anybody.
_WIDEST = 200.0
_RENYI_TOLERANCE = 0.02

_ORDERS = np.array(
    [1 + tenth / 10 for tenth in range(1, 100)] + [*range(11, 64), 80, 128, 256, 512],
    dtype=np.float64,
)

Rdp = NDArray[np.float64]  # (orders,)


class Severity(StrEnum):
    """What a finding does to the trust in a ledger."""

    BROKEN = "broken"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """An entry that does not fit.

    Attributes:
        entry: Its number; 0 for what concerns no single entry.
        severity: `broken`: the ledger does not prove what it says.
        problem: What does not fit.
        meaning: What may have happened.
    """

    entry: int
    severity: Severity
    problem: str
    meaning: str


@dataclass(frozen=True, slots=True)
class RoundRow:
    """What one round released from one dataset.

    Attributes:
        run: The run.
        round: The round.
        site: The site.
        dataset: Fingerprint of the records.
        unit: The privacy unit.
        mode: A value of `protocol.plan.Noise`.
        mechanism: What was added.
        sampling_rate: q.
        noise_multiplier: σ, over sensitivity.
        clipping_norm: C.
        releases: Compositions, those of repeated attempts included.
        unsent: Charges whose vector the server is not known to have taken: they stay charged.
        delta: δ of both ε.
        epsilon_alone: ε of this row by itself, recomputed.
        epsilon_so_far: ε of the dataset after this round, as the ledger has it.
        limit: The lifetime limit then; infinite if none is recorded.
    """

    run: str
    round: int
    site: str
    dataset: str
    unit: str
    mode: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    clipping_norm: float
    releases: int
    unsent: int
    delta: float
    epsilon_alone: float
    epsilon_so_far: float
    limit: float

    @property
    def left(self) -> float:
        """What the limit still allowed."""
        return max(0.0, self.limit - self.epsilon_so_far)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the site's operator decided.

    Attributes:
        entry: Number of the entry.
        time: Seconds since the epoch.
        kind: `grant`, `freeze` or `unfreeze`.
        dataset: Fingerprint, or `EVERY_DATASET`.
        epsilon: Of a grant; 0 otherwise.
        reason: In the operator's words.
    """

    entry: int
    time: float
    kind: str
    dataset: str
    epsilon: float
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        site: The site.
        key: The site's public key, hexadecimal.
        server_key: The server's.
        entries: How many entries were read.
        head: Number and hash of the last.
        countersigned: Number of the last entry that the server has countersigned; 0 for none.
        countersigned_time: When, by the server's clock.
        findings: By entry; empty for a ledger in order.
        rounds: What was released, in order.
        decisions: What the operator decided, in order.
        charges: Session, step and attempt of every charge, with its run.
    """

    site: str
    key: str
    server_key: str
    entries: int
    head: tuple[int, str]
    countersigned: int
    countersigned_time: float
    findings: tuple[Finding, ...]
    rounds: tuple[RoundRow, ...]
    decisions: tuple[Decision, ...]
    charges: tuple[Charge, ...]

    @property
    def first_broken(self) -> Finding | None:
        """The first entry that does not fit; None for a ledger that proves what it says."""
        return next((f for f in self.findings if f.severity is Severity.BROKEN), None)


def audit(evidence: Evidence, roster: Roster, anchor: Head | None = None) -> Audit:
    """Audits a site's evidence.

    Args:
        evidence: What the site shows.
        roster: Keys that the auditor trusts.
        anchor: A head of this ledger that was kept elsewhere.
    """
    chain = _Chain(evidence.site, roster)
    rules, costs, rounds = _Rules(evidence.contracts), _Costs(), _Rounds(evidence)
    findings: list[Finding] = []
    decisions: list[Decision] = []
    charges: list[Charge] = []
    hashes: dict[int, str] = {}
    intact = True
    for row in evidence.rows:
        hashes[row[0]] = row[2]
        entry = chain.read(row)
        if isinstance(entry, Finding):
            findings.append(entry)
            intact = False
            continue
        broken = chain.check(row[0], entry)
        intact = intact and broken is None
        findings += [*([broken] if broken else rules.check(entry)), *chain.late(entry)]
        match entry.body:
            case Charged() as charged:
                # After a break every ε is of other entries than these: it would accuse the wrong one.
                findings += costs.add(entry, charged) if intact else ()
                rounds.add(charged)
                charges.append(charged.charge)
            case Granted() | Frozen() | Unfrozen() as body:
                more = body.epsilon if isinstance(body, Granted) else 0.0
                decisions.append(
                    Decision(entry.seq, entry.time, body.kind, body.dataset, more, body.reason)
                )
    findings += costs.finish()
    findings += _check_heads(evidence, roster, anchor, hashes)
    findings += _check_sent(evidence, charges)
    last = max(evidence.countersignatures, key=lambda one: one.head.seq, default=None)
    return Audit(
        site=evidence.site,
        key=roster.sites.get(evidence.site, b"").hex(),
        server_key=roster.server.hex(),
        entries=len(evidence.rows),
        head=chain.head,
        countersigned=last.head.seq if last else 0,
        countersigned_time=last.time if last else 0.0,
        findings=tuple(_in_order(findings)),
        rounds=rounds.rows(),
        decisions=tuple(decisions),
        charges=tuple(charges),
    )


class _Chain:
    """Numbers, hashes, signatures and times, entry after entry."""

    def __init__(self, site: str, roster: Roster) -> None:
        self.head: tuple[int, str] = (0, GENESIS)
        self._site = site
        self._roster = roster
        self._time = -math.inf

    def read(self, row: Row) -> Entry | Finding:
        """Returns the entry in a row; or that it cannot be read, and goes on after it."""
        number, content, hash_, signature = row
        try:
            return Entry.parse(content, hash_, signature)
        except ValueError as error:
            missing = number != self.head[0] + 1
            number, self.head = (self.head[0] + 1 if missing else number), (number, hash_)
            if missing:
                return _broken(number, "it is missing", "An entry was deleted or renumbered.")
            return _broken(number, f"it cannot be read: {error}", "A value in it was changed.")

    def check(self, number: int, entry: Entry) -> Finding | None:
        """Returns the first thing that does not fit, and goes on from this entry."""
        (before, previous), self.head = self.head, (number, entry.hash)
        if number != before + 1:
            return _broken(before + 1, "it is missing", "An entry was deleted or renumbered.")
        if entry.seq != number:
            return _broken(
                number, f"it says that it is number {entry.seq}", "Entries were renumbered."
            )
        if entry.hash != content_hash(entry.content):
            return _broken(
                number,
                "its hash is not that of its content",
                "A value in it was changed after it was written.",
            )
        if entry.previous_hash != previous:
            return _broken(
                number,
                "it does not continue the entry before it",
                "It, or the entry before it, was replaced, inserted or put in another place.",
            )
        if self._site not in self._roster.sites:
            return _broken(number, "the roster has no such site", "It is another consortium's.")
        for handover in self._roster.handovers.get(self._site, ()):
            if number == handover.last_entry and entry.hash != handover.head:
                return _broken(
                    number,
                    "it is not the entry after which the site changed its key",
                    "The entries before the change were replaced, with the site's former key.",
                )
        if not entry.is_signed_by(self._roster.key_at(self._site, number)):
            return _broken(
                number,
                f"its signature is not by the key of {self._site}",
                "Somebody without the site's key wrote it, or the roster has another key.",
            )
        return None

    def late(self, entry: Entry) -> Iterator[Finding]:
        """Yields a warning if the entry is older than the one before it."""
        before, self._time = self._time, entry.time
        if entry.time < before:
            yield _warning(
                entry.seq,
                f"it is {before - entry.time:.0f} s older than the entry before it",
                "The site's clock was set back; the order of entries is still certain.",
            )


class _Rules:
    """Limits, grants, freezes, periods, attempts and contracts, followed anew."""

    def __init__(self, contracts: Mapping[str, str]) -> None:
        self._contracts = contracts
        self._granted: defaultdict[str, float] = defaultdict(float)
        self._frozen: set[str] = set()
        self._seen: set[tuple[str, int, int]] = set()
        self._base: dict[str, float] = {}
        self._units: dict[str, str] = {}
        self._plans: dict[str, Contract | None] = {}
        self._time = -math.inf

    def check(self, entry: Entry) -> list[Finding]:
        """Returns what an entry does that the ones before it do not allow."""
        self._time = max(self._time, entry.time)
        match entry.body:
            case Charged() as charged:
                return list(self._check_charge(entry.seq, charged))
            case Granted(dataset, more):
                self._granted[dataset] += more
            case Frozen(dataset):
                self._frozen.add(dataset)
            case Unfrozen(dataset):
                self._frozen.discard(dataset)
        return []

    def _check_charge(self, seq: int, charged: Charged) -> Iterator[Finding]:
        charge = charged.charge
        if self._frozen & {charge.dataset, EVERY_DATASET}:
            yield _broken(seq, "its dataset was frozen", "The program ignored its operator.")
        if charge.key in self._seen:
            yield _broken(seq, "its attempt was charged before", "One mask may cover two vectors.")
        self._seen.add(charge.key)
        unit = self._units.setdefault(charge.dataset, charge.unit)
        if unit != charge.unit:
            yield _warning(
                seq,
                f"it protects a {charge.unit}, entries before it a {unit}",
                "Their losses cannot be added up: ε is of neither.",
            )
        for level in charged.levels:
            if level.epsilon > level.limit:
                yield _broken(
                    seq,
                    f"it brought {level.name} to ε = {level.epsilon:.6g}, over {level.limit:.6g}",
                    "The program released what its policy forbade.",
                )
            if level.scope is Scope.PERIOD and level.period not in {
                period_of(self._time, every) for every in Every
            }:
                yield _broken(
                    seq,
                    f"it was charged to {level.period}, which is not the period of its time",
                    "A clock, or the entry, was changed to spend another period's budget.",
                )
        yield from self._check_limit(seq, charge, charged.levels[0])
        yield from self._check_contract(seq, charge)

    def _check_limit(self, seq: int, charge: Charge, level: Level) -> Iterator[Finding]:
        if math.isinf(level.limit):
            return
        granted = self._granted[charge.dataset] + self._granted[EVERY_DATASET]
        base = level.limit - granted
        before = self._base.get(charge.dataset, base)
        self._base[charge.dataset] = base
        if not math.isclose(base, before, rel_tol=1e-9):
            yield _warning(
                seq,
                f"policy.yaml allowed ε = {base:.6g}, before it {before:.6g}",
                "The operator changed the budget without a signed grant.",
            )

    def _check_contract(self, seq: int, charge: Charge) -> Iterator[Finding]:
        if charge.plan not in self._plans:
            contract = self._plans[charge.plan] = _contract(self._contracts.get(charge.plan))
            if charge.plan not in self._contracts:
                yield _warning(
                    seq,
                    f"its plan {charge.plan[:16]}… is not among the evidence",
                    "What was charged cannot be compared with what was approved.",
                )
            elif contract is None or contract.digest() != charge.plan:
                self._plans[charge.plan] = None
                yield _broken(
                    seq,
                    f"the plan stored as {charge.plan[:16]}… has another hash",
                    "The plan was changed after it was approved.",
                )
        contract = self._plans[charge.plan]
        if contract is None:
            return
        privacy = contract.privacy
        # A norm that adapts goes from step to step; ε does not depend on it.
        adapts = privacy.clipping.rule is ClippingRule.ADAPTIVE
        norm = charge.clipping_norm if adapts else privacy.clipping_norm
        agreed = (privacy.noise.value, contract.training.sampling_rate, norm, privacy.unit)
        if (charge.mode, charge.sampling_rate, charge.clipping_norm, charge.unit) != agreed:
            yield _broken(
                seq,
                "noise mode, q, C or unit are not its plan's",
                "The site did another thing than it had approved, or charged another.",
            )


@dataclass(slots=True)
class _Pending:
    """A charge whose ε is between two that were recomputed."""

    seq: int
    charge: Charge
    claim: float
    exact: bool


@dataclass(slots=True)
class _Tally:
    """What has been released within one scope."""

    rdp: Rdp = field(default_factory=lambda: np.zeros(len(_ORDERS)))
    history: dict[GaussianEvent, int] = field(default_factory=dict)
    is_bare: bool = False
    delta: float = 0.0
    claim: float = 0.0
    checked: float = 0.0  # the Rényi bound when ε was last recomputed
    before: dict[GaussianEvent, int] = field(default_factory=dict)  # the history then
    pending: list[_Pending] = field(default_factory=list)


class _Costs:
    """ε of every scope, recomputed."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._last: tuple[str, float] = ("", 0.0)

    def add(self, entry: Entry, charged: Charged) -> Iterator[Finding]:
        """Counts a charge; yields what does not fit, perhaps of entries before it."""
        charge = charged.charge
        if (charge.run, charge.delta) != self._last:
            yield from self.finish()
        self._last = (charge.run, charge.delta)
        for level in charged.levels:
            name = charge.plan if level.scope is Scope.PLAN else level.period
            tally = self._tallies.setdefault((charge.dataset, name), _Tally())
            yield from _count(tally, entry, charge, level)

    def finish(self) -> Iterator[Finding]:
        """Yields what does not fit of the entries since ε was last recomputed."""
        for tally in self._tallies.values():
            yield from _recompute(tally)


def _count(tally: _Tally, entry: Entry, charge: Charge, level: Level) -> Iterator[Finding]:
    _add(tally.history, charge)
    if charge.is_private:
        tally.rdp += charge.releases * _rdp_of(charge.event)
    else:
        tally.is_bare = True
    if tally.is_bare:
        if math.isfinite(level.epsilon):
            yield _less(entry.seq, level.epsilon, math.inf, charge.delta)
        return
    if charge.delta != tally.delta:
        tally.delta, tally.claim, tally.checked = charge.delta, 0.0, 0.0
    bound = _epsilon_rdp(tally.rdp, charge.delta)
    if level.epsilon > bound * (1 + _RENYI_TOLERANCE) + _SLACK:
        yield _more(entry.seq, level.epsilon, bound, charge.delta)
    elif bound > _WIDEST and level.epsilon < bound * (1 - _RENYI_TOLERANCE):
        yield _less(entry.seq, level.epsilon, bound, charge.delta)
    # A grid that grew coarser may take back as much as the two accountants may differ.
    elif level.epsilon < tally.claim * (1 - _TOLERANCE):
        yield _less(entry.seq, level.epsilon, tally.claim, charge.delta)
    elif bound <= _WIDEST:
        # A ledger of version 1 counted on a coarser grid: up to the Rényi bound.
        exact = not entry.is_of_version_1
        tally.pending.append(_Pending(entry.seq, charge, level.epsilon, exact))
    tally.claim = level.epsilon
    if bound > tally.checked * _CHECKPOINT_GROWTH:
        tally.checked = bound
        yield from _recompute(tally)


def _recompute(tally: _Tally) -> Iterator[Finding]:
    """Compares the last ε with one of another accountant; then, if need be, each since before."""
    pending, tally.pending = tally.pending, []
    before, tally.before = tally.before, dict(tally.history)
    if not pending or _misfit(pending[-1], tally.history) is None:
        return
    history = dict(before)
    for one in pending:
        _add(history, one.charge)
        misfit = _misfit(one, history)
        if misfit is not None:
            yield misfit
            return


def _misfit(one: _Pending, history: Mapping[GaussianEvent, int]) -> Finding | None:
    delta = one.charge.delta
    recounted = recount(_not_less_than_some_noise(history), delta)
    if one.claim < recounted * (1 - _TOLERANCE) - _SLACK:
        return _less(one.seq, one.claim, recounted, delta)
    if one.exact and one.claim > recounted * (1 + _TOLERANCE) + _SLACK:
        return _more(one.seq, one.claim, recounted, delta)
    return None


def _add(history: dict[GaussianEvent, int], charge: Charge) -> None:
    if charge.is_private:
        history[charge.event] = history.get(charge.event, 0) + charge.releases


def _not_less_than_some_noise(history: Mapping[GaussianEvent, int]) -> dict[GaussianEvent, int]:
    counted: dict[GaussianEvent, int] = {}
    for event, count in history.items():
        noise = max(event.noise_multiplier, _LEAST_NOISE)
        event_ = GaussianEvent(event.sampling_rate, noise)
        counted[event_] = counted.get(event_, 0) + count
    return counted


@functools.lru_cache(maxsize=1024)
def _rdp_of(event: GaussianEvent) -> Rdp:
    """Returns the Rényi divergences of one release, at `_ORDERS`."""
    orders = [float(order) for order in _ORDERS]
    noise = max(event.noise_multiplier, _LEAST_NOISE)
    with np.errstate(all="ignore"):
        values = compute_rdp(q=event.sampling_rate, noise_multiplier=noise, steps=1, orders=orders)
    return np.asarray(values, dtype=np.float64)


_LOG_TERMS = np.log(_ORDERS) / (_ORDERS - 1) - np.log1p(-1 / _ORDERS)


def _epsilon_rdp(rdp: Rdp, delta: float) -> float:
    """Converts Rényi divergences to ε at δ (Balle et al. 2020, theorem 21)."""
    terms = rdp - math.log(delta) / (_ORDERS - 1) - _LOG_TERMS
    return max(0.0, float(np.nanmin(terms)))


def _check_heads(
    evidence: Evidence, roster: Roster, anchor: Head | None, hashes: Mapping[int, str]
) -> Iterator[Finding]:
    """Yields entries that others have seen and that are not, or not any more, there."""
    for one in evidence.countersignatures:
        head = one.head
        if not one.is_signed_by(roster.server):
            yield _broken(
                head.seq,
                "a countersignature of it is not by the server's key",
                "It was made up or changed, or the roster has another server.",
            )
        elif hashes.get(head.seq) != head.hash:
            yield _gone(head, hashes, "the server countersigned")
    if anchor is None:
        return
    if anchor.site != evidence.site or not anchor.is_signed_by(
        roster.key_at(evidence.site, anchor.seq)
    ):
        yield _broken(anchor.seq, "the anchor is not signed by this site", "It is another's.")
    elif hashes.get(anchor.seq) != anchor.hash:
        yield _gone(anchor, hashes, "the anchor holds")


def _gone(head: Head, hashes: Mapping[int, str], who: str) -> Finding:
    if head.seq in hashes:
        return _broken(
            head.seq,
            f"it is not the entry that {who}",
            "The ledger was rolled back to an older copy, and went on from there.",
        )
    return _broken(
        max(hashes, default=0) + 1,
        f"it is missing: {who} entry {head.seq}",
        "The ledger was rolled back to an older copy.",
    )


def _check_sent(evidence: Evidence, charges: Iterable[Charge]) -> Iterator[Finding]:
    # A vector with noise of its own is sent again under new masks without a new charge.
    charged = {(charge.session, charge.step) for charge in charges}
    for session, step, attempt in sorted(evidence.sent):
        if (session, step) not in charged:
            yield _broken(
                0,
                f"session {session[:8]}, step {step}, attempt {attempt} was sent and not charged",
                "The entry that charged it was deleted.",
            )


@dataclass(slots=True)
class _Open:
    """A row that still grows."""

    last: Charged
    releases: int = 0
    unsent: int = 0


class _Rounds:
    """Sums entries up by round."""

    def __init__(self, evidence: Evidence) -> None:
        self._site = evidence.site
        self._sent = evidence.sent
        self._open: dict[tuple[object, ...], _Open] = {}
        self._alone: dict[tuple[GaussianEvent, int, float], float] = {}

    def add(self, charged: Charged) -> None:
        """Adds a charge to its row."""
        c = charged.charge
        key = (c.run, c.round, c.dataset, c.mode, c.mechanism, c.sampling_rate)
        row = self._open.setdefault(
            (*key, c.noise_multiplier, c.clipping_norm, c.delta), _Open(charged)
        )
        row.last = charged
        row.releases += c.releases
        row.unsent += c.key not in self._sent

    def rows(self) -> tuple[RoundRow, ...]:
        """Returns the rows in the order in which they were begun."""
        return tuple(map(self._close, self._open.values()))

    def _close(self, row: _Open) -> RoundRow:
        charge, level = row.last.charge, row.last.levels[0]
        return RoundRow(
            run=charge.run,
            round=charge.round,
            site=self._site,
            dataset=charge.dataset,
            unit=charge.unit,
            mode=charge.mode,
            mechanism=charge.mechanism,
            sampling_rate=charge.sampling_rate,
            noise_multiplier=charge.noise_multiplier,
            clipping_norm=charge.clipping_norm,
            releases=row.releases,
            unsent=row.unsent,
            delta=charge.delta,
            epsilon_alone=self._epsilon(charge, row.releases),
            epsilon_so_far=level.epsilon,
            limit=level.limit,
        )

    def _epsilon(self, charge: Charge, releases: int) -> float:
        if not charge.is_private:
            return math.inf
        key = (charge.event, releases, charge.delta)
        if key not in self._alone:
            history = {charge.event: releases}
            bound = _epsilon_rdp(releases * _rdp_of(charge.event), charge.delta)
            if bound <= _WIDEST:
                bound = min(bound, recount(history, charge.delta))
            self._alone[key] = bound
        return self._alone[key]


def _contract(text: str | None) -> Contract | None:
    try:
        return None if text is None else Contract.model_validate(json.loads(text))
    except ValueError:
        return None


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By entry, what concerns none of them last; of several of one kind at one entry, the first."""
    ordered: dict[tuple[int, str], Finding] = {}
    for finding in sorted(findings, key=lambda f: (f.entry == 0, f.entry)):
        ordered.setdefault((finding.entry, finding.problem), finding)
    return list(ordered.values())


def _less(entry: int, claim: float, cost: float, delta: float) -> Finding:
    return _broken(
        entry,
        f"it says ε = {claim:.6g} at δ = {delta:g}; its entries up to here cost at least {cost:.6g}",
        "More was spent than the site admits, by a faulty program or on purpose.",
    )


def _more(entry: int, claim: float, cost: float, delta: float) -> Finding:
    return _broken(
        entry,
        f"it says ε = {claim:.6g} at δ = {delta:g}; its entries up to here cost at most {cost:.6g}",
        "Entries of this dataset are not in this ledger, or the program counts wrongly.",
    )


def _broken(entry: int, problem: str, meaning: str) -> Finding:
    return Finding(entry, Severity.BROKEN, problem, meaning)


def _warning(entry: int, problem: str, meaning: str) -> Finding:
    return Finding(entry, Severity.WARNING, problem, meaning)
