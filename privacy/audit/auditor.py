"""An audit of a site's evidence that shares no code with the program that wrote it.

Numbers, chain, hashes, signatures and countersignatures are checked for every entry (`chain`),
limits, freezes and periods are replayed (`rules`), and ε is recomputed with an accountant
that shares nothing with the ledger's (`costs`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hortus.privacy.audit.chain import (
    Chain,
    check_heads,
    check_times,
    checked_signatures,
    vouches,
)
from hortus.privacy.audit.consents import Consents, stored_contract
from hortus.privacy.audit.costs import Costs
from hortus.privacy.audit.evidence import Evidence
from hortus.privacy.audit.findings import Finding, Severity, in_order, warning
from hortus.privacy.audit.lineages import Accounts
from hortus.privacy.audit.rounds import RoundRow, Rounds
from hortus.privacy.audit.rules import Rules, check_sent
from hortus.privacy.ledger.charges import Charge, Charged
from hortus.privacy.ledger.decisions import (
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
from hortus.protocol.heads import LedgerHead
from hortus.protocol.identity import Roster


@dataclass(frozen=True, slots=True)
class Decision:
    """What the site's operator decided.

    Attributes:
        entry: Number of the entry.
        time: Seconds since the epoch.
        kind: `grant`, `freeze`, `unfreeze` or `disjoint`.
        dataset: An account, or `EVERY_DATASET`; of a statement, the content that it is about.
        epsilon: Of a grant; 0 otherwise.
        reason: In the operator's words.
        operator: The person who states that datasets are disjoint; empty otherwise.
        others: The accounts that they are disjoint from.
    """

    entry: int
    time: float
    kind: str
    dataset: str
    epsilon: float
    reason: str
    operator: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """That a plan was approved, admitted or withdrawn.

    Attributes:
        entry: Number of the entry.
        time: Seconds since the epoch.
        kind: `approval`, `admission` or `withdrawal`.
        plan: Hash of the contract.
        name: Its name.
        operator: Name of whoever decided; empty where policy.yaml did.
        unit: The privacy unit; empty for a withdrawal.
        epsilon: The most that the whole plan alone can cost; 0 for a withdrawal.
        delta: The δ of that ε.
        reason: Of a withdrawal.
    """

    entry: int
    time: float
    kind: str
    plan: str
    name: str
    operator: str = ""
    unit: str = ""
    epsilon: float = 0.0
    delta: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the site refused to the server.

    Attributes:
        entry: Number of the entry.
        time: Seconds since the epoch.
        plan: Hash of the contract.
        run: The run; empty where none was opened yet.
        round: Round of the run.
        reason: As it was sent to the server.
    """

    entry: int
    time: float
    plan: str
    run: str
    round: int
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
        decisions: What the operator decided about budgets, in order.
        plans: What was decided about plans, in order.
        refusals: What the site refused, in order.
        charges: Session, step and attempt of every charge, with its run.
        accounts: The account of each content in the end, accounts that were joined included.
        names: Names of the plans in the entries or the evidence, by hash.
        period: Times of the first and the last entry; zeros without any.
        anchored: Number of the entry that the auditor's anchor holds; 0 without one.
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
    plans: tuple[PlanDecision, ...]
    refusals: tuple[Refusal, ...]
    charges: tuple[Charge, ...]
    accounts: Mapping[str, str]
    names: Mapping[str, str]
    period: tuple[float, float] = (0.0, 0.0)
    anchored: int = 0

    @property
    def first_broken(self) -> Finding | None:
        """The first entry that does not fit; None for a ledger that proves what it says."""
        return next((f for f in self.findings if f.severity is Severity.BROKEN), None)


def audit(evidence: Evidence, roster: Roster, anchor: LedgerHead | None = None) -> Audit:
    """Audits a site's evidence.

    Args:
        evidence: What the site shows.
        roster: Keys that the auditor trusts.
        anchor: A head of this ledger that was kept elsewhere.

    Raises:
        RuntimeError: A defect of the audit: it has not compared every claim of ε.
    """
    read = _read(evidence, roster)
    told, times = read.told, read.times
    findings = [
        *read.findings,
        *check_heads(evidence, roster, anchor, read.hashes, read.first_misfit),
        *check_times(evidence, roster, times),
        *check_sent(evidence, told.charges),
    ]
    vouched = [one for one in evidence.countersignatures if vouches(one, roster)]
    if told.charges and not vouched:
        findings.append(_unseen())
    last = max(vouched, key=lambda one: one.head.seq, default=None)
    seen = list(times.values())
    return Audit(
        site=evidence.site,
        key=roster.sites.get(evidence.site, b"").hex(),
        server_key=roster.server.hex(),
        entries=len(evidence.rows),
        head=read.chain.head,
        countersigned=last.head.seq if last else 0,
        countersigned_time=last.time if last else 0.0,
        findings=tuple(in_order(findings)),
        rounds=told.rounds.rows(),
        decisions=tuple(told.decisions),
        plans=tuple(told.plans),
        refusals=tuple(told.refusals),
        charges=tuple(told.charges),
        accounts={charge.dataset: read.accounts.root(charge.dataset) for charge in told.charges},
        names=told.names(),
        period=(seen[0], seen[-1]) if seen else (0.0, 0.0),
        anchored=anchor.seq if anchor else 0,
    )


@dataclass(slots=True)
class _Read:
    """What was found entry by entry: hashes and times are by number of the entry."""

    chain: Chain
    accounts: Accounts
    told: "_Told"
    findings: list[Finding] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict)
    times: dict[int, float] = field(default_factory=dict)
    first_misfit: float = math.inf


def _read(evidence: Evidence, roster: Roster) -> _Read:
    """Reads and checks every entry."""
    chain, accounts = Chain(evidence.site, roster), Accounts()
    rules, costs = Rules(evidence.contracts, accounts), Costs(accounts)
    consents, read = Consents(evidence.contracts), _Read(chain, accounts, _Told(evidence))
    findings, levels = read.findings, 0
    with checked_signatures(evidence, roster) as signatures:
        for row, is_signed in zip(evidence.rows, signatures, strict=True):
            read.hashes[row[0]] = row[2]
            entry = chain.read(row)
            if isinstance(entry, Finding):
                findings.append(entry)
                read.first_misfit = min(read.first_misfit, entry.entry)
                continue
            read.times[row[0]] = entry.time
            misfit = chain.check(row[0], entry, is_signed=is_signed)
            read.first_misfit = min(read.first_misfit, misfit.entry if misfit else math.inf)
            placed, allowed = accounts.check(entry), consents.check(entry)
            findings += [misfit] if misfit else [*placed, *rules.check(entry)]
            findings += chain.late(entry)
            read.told.add(entry)
            # After a break an approval may be what is missing, and every ε is of other entries.
            if math.isinf(read.first_misfit):
                findings += allowed
                if isinstance(entry.body, Charged):
                    findings += costs.add(entry, entry.body)
                    levels += len(entry.body.levels)
    findings += costs.finish()
    if costs.compared != levels:
        raise RuntimeError(f"{levels} claims of ε were read and {costs.compared} compared")
    return read


class _Told:
    """What a ledger's entries say, whether true or not."""

    def __init__(self, evidence: Evidence) -> None:
        self.rounds = Rounds(evidence)
        self.decisions: list[Decision] = []
        self.plans: list[PlanDecision] = []
        self.refusals: list[Refusal] = []
        self.charges: list[Charge] = []
        self._contracts = evidence.contracts

    def add(self, entry: Entry) -> None:
        """Follows an entry."""
        match entry.body:
            case Charged(charge) as charged:
                self.rounds.add(entry.time, charged)
                self.charges.append(charge)
            case Granted() | Frozen() | Unfrozen() | Disjoint() as body:
                self.decisions.append(_decision(entry, body))
            case Approved() | Admitted() | Withdrawn() as body:
                self.plans.append(_plan_decision(entry, body))
            case Declined(plan, run, round_, _, reason) as declined:
                self.rounds.refuse(entry.time, declined)
                self.refusals.append(Refusal(entry.seq, entry.time, plan, run, round_, reason))

    def names(self) -> dict[str, str]:
        """Returns the plans' names, by hash: as their contracts have them, otherwise as they were approved."""
        names = {one.plan: one.name for one in self.plans}
        for plan in dict.fromkeys(charge.plan for charge in self.charges):
            contract = stored_contract(self._contracts, plan)
            if contract is not None:
                names[plan] = contract.name
        return names


def _unseen() -> Finding:
    return warning(
        0,
        "the server has countersigned none of its entries",
        "Only the site vouches for it. Ask for the run's folder at the server, or for an anchor that was kept "
        "elsewhere.",
    )


def _decision(entry: Entry, body: Granted | Frozen | Unfrozen | Disjoint) -> Decision:
    more = body.epsilon if isinstance(body, Granted) else 0.0
    told = Decision(entry.seq, entry.time, body.kind, body.dataset, more, body.reason)
    if isinstance(body, Disjoint):
        return replace(told, operator=body.operator, others=body.others)
    return told


def _plan_decision(entry: Entry, body: Approved | Admitted | Withdrawn) -> PlanDecision:
    told = PlanDecision(entry.seq, entry.time, body.kind, body.plan, body.name)
    if isinstance(body, Withdrawn):
        return replace(told, operator=body.operator, reason=body.reason)
    by = body.operator if isinstance(body, Approved) else ""
    return replace(told, operator=by, unit=body.unit, epsilon=body.epsilon, delta=body.delta)
