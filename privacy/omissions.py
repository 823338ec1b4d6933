"""A run as the server recorded it, joined with what the sites' ledgers charged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hortus.privacy.audit import Audit
from hortus.privacy.evidence import Evidence


@dataclass(frozen=True, slots=True)
class SumRecord:
    """A secure sum that the server completed.

    Attributes:
        session: The session.
        step: Number of the sum in it.
        attempt: The attempt that was completed; those before it were thrown away.
        sites: Whose vectors are in it.
    """

    session: str
    step: int
    attempt: int
    sites: tuple[str, ...]


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
                    f"two ledgers of it differ from entry {mine[0]} on: a copy of its folder has gone "
                    "on by itself, and ε of neither is of everything that was released"
                )
                found.append(Omission(one.site, problem))
                break
    return found


@dataclass(frozen=True, slots=True)
class Departed:
    """A site that did not go on, as the server recorded it.

    Attributes:
        site: The site.
        round: From which round on.
        reason: As the server heard it.
        is_signed: Whether the site's ledger has that refusal; None where no ledger is at hand.
    """

    site: str
    round: int
    reason: str
    is_signed: bool | None


def departed(
    run: str, departures: Iterable[tuple[int, str, str]], audits: Iterable[Audit]
) -> list[Departed]:
    """Holds what the server says of sites that refused or left against what they signed.

    A site that was lost, or whose program failed, has signed nothing: that is no contradiction.

    Args:
        run: The run.
        departures: Round, site and reason of each.
        audits: One for each site whose ledger is at hand.
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
    run: str,
    sessions: Mapping[str, tuple[str, ...]],
    sums: Iterable[SumRecord],
    audits: Iterable[Audit],
) -> list[Omission]:
    """Returns what the server's record and the ledgers do not agree on.

    A charge for the step after the last recorded one is no omission: its sum was not completed.

    Args:
        run: The run.
        sessions: The cohort of each session that the server opened.
        sums: The sums that it completed.
        audits: One for each site whose ledger is at hand.
    """
    known = {audit.site: audit for audit in audits}
    charged = {
        site: {(c.session, c.step) for c in audit.charges if c.run == run}
        for site, audit in known.items()
    }
    found: list[Omission] = []
    reached: dict[str, int] = {}
    for one in sums:
        reached[one.session] = max(reached.get(one.session, -1), one.step)
        found += [
            Omission(
                site,
                f"the server has its vector of session {one.session[:8]}, step {one.step}; its ledger "
                "has no charge for it",
            )
            for site in one.sites
            if site in charged and (one.session, one.step) not in charged[site]
        ]
    for site, keys in charged.items():
        for session, step in sorted(keys):
            if site not in sessions.get(session, ()):
                found.append(
                    Omission(site, f"it charged session {session[:8]}, unknown to the server")
                )
            elif step > reached.get(session, -1) + 1:
                found.append(
                    Omission(
                        site,
                        f"it charged step {step} of session {session[:8]}; the server's record ends "
                        f"with step {reached.get(session, -1)}",
                    )
                )
    return list(dict.fromkeys(found))
