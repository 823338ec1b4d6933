"""A run as the server recorded it, joined with what the sites' ledgers charged."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hortus.privacy.audit.auditor import Audit
from hortus.privacy.audit.evidence import Evidence
from hortus.privacy.audit.rules import Payments
from hortus.privacy.ledger.charges import Charge


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt at a secure sum, as the server began or settled it.

    Attributes:
        session: The session.
        step: Number of the sum in it.
        attempt: Number of the attempt at it.
        sites: U′, the sites that were asked for a vector.
        heard: Of whom the server has a vector, or a part of one; nobody while it is not settled.
        complete: Whether the sum was made; what there is of others was thrown away.
    """

    session: str
    step: int
    attempt: int
    sites: tuple[str, ...]
    heard: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """What the server recorded of a run.

    Attributes:
        run: The run.
        plan: Hash of its contract.
        sessions: The cohort of each session that it opened.
        attempts: Every attempt that it began, in order.
    """

    run: str
    plan: str
    sessions: Mapping[str, tuple[str, ...]]
    attempts: tuple[AttemptRecord, ...]


@dataclass(frozen=True, slots=True)
class Omission:
    """Something that one side has and the other has not.

    Attributes:
        site: Whose ledger.
        problem: What is missing where.
    """

    site: str
    problem: str


def forks(shown: Sequence[Evidence]) -> list[Omission]:
    """Returns sites of which two ledgers are shown that differ; an older copy of one does not."""
    found = []
    for one, other in combinations(shown, 2):
        if one.site != other.site:
            continue
        for mine, theirs in zip(one.rows, other.rows, strict=False):
            if mine[2] != theirs[2]:
                problem = (
                    f"two ledgers of it differ from entry {mine[0]}: a copy of its folder was used "
                    "separately, and neither ε covers everything that was released"
                )
                found.append(Omission(one.site, problem))
                break
    return found


@dataclass(frozen=True, slots=True)
class Departed:
    """A site that left, according to the server's record.

    Attributes:
        site: The site.
        round: From which round on.
        reason: As the server heard it.
        is_signed: Whether the site's ledger has that refusal; None where no ledger is available.
    """

    site: str
    round: int
    reason: str
    is_signed: bool | None


def departed(
    run: str, departures: Iterable[tuple[int, str, str]], audits: Iterable[Audit]
) -> list[Departed]:
    """Holds what the server says of sites that refused or left against what they signed.

    A site that was lost, or whose program failed, has signed nothing, which is not a contradiction.

    Args:
        run: The run.
        departures: Round, site and reason of each.
        audits: One for each site whose ledger is available.
    """
    signed = {
        audit.site: {one.reason for one in audit.refusals if one.run in ("", run)}
        for audit in audits
    }
    return [
        Departed(site, round_, reason, reason in signed[site] if site in signed else None)
        for round_, site, reason in departures
    ]


def omissions(
    before: ServerRecord, audits: Iterable[Audit], after: ServerRecord | None = None
) -> list[Omission]:
    """Returns what the server's record and the ledgers do not agree on.

    Args:
        before: The server's record, read before the ledgers: what it has by then must be charged.
        audits: One for each site whose ledger is available.
        after: The same, read after them: what they have by then must be in it. None if nobody writes to
            them meanwhile.
    """
    after = after or before
    found: list[Omission] = []
    for audit in audits:
        charges = [charge for charge in audit.charges if charge.run == before.run]
        found += [Omission(audit.site, problem) for problem in _unpaid(before, audit.site, charges)]
        found += [Omission(audit.site, problem) for problem in _unknown(after, audit.site, charges)]
    return list(dict.fromkeys(found))


def _unpaid(record: ServerRecord, site: str, charges: Sequence[Charge]) -> Iterator[str]:
    payments = Payments(charges)
    for one in record.attempts:
        if site in one.heard and not payments.cover(one.session, one.step, one.attempt):
            yield (
                f"the server has its vector of session {one.session[:8]}, step {one.step}, attempt "
                f"{one.attempt}; its ledger has no charge for it"
            )


def _unknown(record: ServerRecord, site: str, charges: Sequence[Charge]) -> Iterator[str]:
    begun = {(one.session, one.step, one.attempt): one for one in record.attempts}
    for charge in charges:
        where = f"step {charge.step}, attempt {charge.attempt} of session {charge.session[:8]}"
        if charge.plan != record.plan:
            yield f"it charged {where} under plan {charge.plan[:16]}, but the run's plan is {record.plan[:16]}"
        if site not in record.sessions.get(charge.session, ()):
            yield f"it charged session {charge.session[:8]}, unknown to the server"
        elif charge.key not in begun:
            yield f"it charged {where}, which the server's record does not have"
        elif site not in begun[charge.key].sites:
            yield f"it charged {where}, but the server says that it took no part in it"
