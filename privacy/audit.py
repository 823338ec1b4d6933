"""An audit of a site's evidence by other means than those that wrote it.

Numbers, chain, hashes, signatures and countersignatures are checked for every entry (`audit_chain`),
limits, freezes and periods are followed anew (`audit_rules`), and ε is recomputed with an accountant
that shares nothing with the ledger's (`audit_costs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hortus.privacy.audit_chain import (
    Chain,
    check_heads,
    check_times,
    checked_signatures,
    vouches,
)
from hortus.privacy.audit_costs import Costs
from hortus.privacy.audit_lineages import Accounts
from hortus.privacy.audit_rounds import RoundRow, Rounds
from hortus.privacy.audit_rules import Rules, check_sent
from hortus.privacy.entries import (
    Charge,
    Charged,
    Declined,
    Disjoint,
    Entry,
    Frozen,
    Granted,
    Unfrozen,
)
from hortus.privacy.evidence import Evidence
from hortus.privacy.findings import Finding, Severity, in_order
from hortus.protocol.heads import Head
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
        operator: Who states that datasets are disjoint; empty otherwise.
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
class Refusal:
    """What the site refused to the server.

    Attributes:
        entry: Number of the entry.
        time: Seconds since the epoch.
        plan: Hash of the contract.
        run: The run; empty where none was opened yet.
        round: Round of the run.
        reason: As the server was told.
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
        decisions: What the operator decided, in order.
        refusals: What the site refused to the server, in order.
        charges: Session, step and attempt of every charge, with its run.
        accounts: The account of each content in the end, accounts that were joined included.
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
    refusals: tuple[Refusal, ...]
    charges: tuple[Charge, ...]
    accounts: Mapping[str, str]
    anchored: int = 0

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

    Raises:
        RuntimeError: A defect of the audit: it has not compared every claim of ε.
    """
    chain, accounts = Chain(evidence.site, roster), Accounts()
    rules, costs, rounds = Rules(evidence.contracts, accounts), Costs(accounts), Rounds(evidence)
    findings: list[Finding] = []
    decisions: list[Decision] = []
    refusals: list[Refusal] = []
    charges: list[Charge] = []
    hashes: dict[int, str] = {}
    times: dict[int, float] = {}
    intact, levels = True, 0
    with checked_signatures(evidence, roster) as signatures:
        for row, is_signed in zip(evidence.rows, signatures, strict=True):
            hashes[row[0]] = row[2]
            entry = chain.read(row)
            if isinstance(entry, Finding):
                findings.append(entry)
                intact = False
                continue
            times[row[0]] = entry.time
            misfit = chain.check(row[0], entry, is_signed=is_signed)
            intact = intact and misfit is None
            placed = accounts.check(entry)
            findings += [misfit] if misfit else [*placed, *rules.check(entry)]
            findings += chain.late(entry)
            match entry.body:
                case Charged() as charged:
                    # After a break every ε is of other entries: it would accuse the wrong one.
                    if intact:
                        findings += costs.add(entry, charged)
                        levels += len(charged.levels)
                    rounds.add(charged)
                    charges.append(charged.charge)
                case Granted() | Frozen() | Unfrozen() | Disjoint() as body:
                    decisions.append(_decision(entry, body))
                case Declined(plan, run, round_, _, reason) as declined:
                    rounds.refuse(declined)
                    refusals.append(Refusal(entry.seq, entry.time, plan, run, round_, reason))
    findings += costs.finish()
    if costs.compared != levels:
        raise RuntimeError(f"{levels} claims of ε were read and {costs.compared} compared")
    findings += check_heads(evidence, roster, anchor, hashes)
    findings += check_times(evidence, roster, times)
    findings += check_sent(evidence, charges)
    vouched = [one for one in evidence.countersignatures if vouches(one, roster)]
    last = max(vouched, key=lambda one: one.head.seq, default=None)
    return Audit(
        site=evidence.site,
        key=roster.sites.get(evidence.site, b"").hex(),
        server_key=roster.server.hex(),
        entries=len(evidence.rows),
        head=chain.head,
        countersigned=last.head.seq if last else 0,
        countersigned_time=last.time if last else 0.0,
        findings=tuple(in_order(findings)),
        rounds=rounds.rows(),
        decisions=tuple(decisions),
        refusals=tuple(refusals),
        charges=tuple(charges),
        accounts={charge.dataset: accounts.root(charge.dataset) for charge in charges},
        anchored=anchor.seq if anchor else 0,
    )


def _decision(entry: Entry, body: Granted | Frozen | Unfrozen | Disjoint) -> Decision:
    more = body.epsilon if isinstance(body, Granted) else 0.0
    told = Decision(entry.seq, entry.time, body.kind, body.dataset, more, body.reason)
    if isinstance(body, Disjoint):
        return replace(told, operator=body.operator, others=body.others)
    return told
