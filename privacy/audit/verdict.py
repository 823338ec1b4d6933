"""What an audit comes to: whether everything holds, and how far what was shown reaches.

A site's evidence ends somewhere, and cut back to an earlier end it is as whole as before. So a bundle that
holds does not prove that nothing came later: for that, somebody else must have kept something.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hortus.privacy.audit.auditor import Audit
from hortus.privacy.audit.findings import Severity
from hortus.privacy.audit.reconcile import Omission, ServerRecord
from hortus.runtime.moments import moment

_NO_MORE = "nothing here shows what came later"
_BROKEN = "does not hold: "


class Outcome(StrEnum):
    """How an audit ends."""

    HOLDS = "holds"
    SO_FAR = "holds so far"
    BROKEN = "does not hold"

    @property
    def exit_code(self) -> int:
        """Of `hortus audit`: 2 and 3 have other meanings in every command."""
        return {Outcome.HOLDS: 0, Outcome.BROKEN: 1, Outcome.SO_FAR: 4}[self]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a ledger, or of several.

    Attributes:
        outcome: How it ends.
        sentence: What holds up to where, or the first thing that does not.
        errors: How many things do not hold.
        warnings: How many things should be read, and break nothing.
    """

    outcome: Outcome
    sentence: str
    errors: int
    warnings: int


@dataclass(frozen=True, slots=True)
class Reach:
    """What there is beside a site's own word on where its ledger ends.

    Attributes:
        records: Runs that the ledger charged and whose record the server has shown.
        is_live: Whether the ledger was read where its agent writes it.
    """

    records: tuple[str, ...] = ()
    is_live: bool = False

    @classmethod
    def of(cls, audit: Audit, records: Collection[ServerRecord], *, is_live: bool) -> "Reach":
        """Returns it for a ledger and the records of some runs."""
        charged = {charge.run for charge in audit.charges}
        return cls(tuple(one.run for one in records if one.run in charged), is_live)


def judge(audit: Audit, reach: Reach, lacking: Sequence[Omission]) -> Verdict:
    """Returns the verdict on one ledger.

    Args:
        audit: What was found in it.
        reach: What vouches for its end.
        lacking: What it and other records do not agree on, of all sites.
    """
    own = [one for one in lacking if one.site == audit.site]
    broken = [one for one in audit.findings if one.severity is Severity.BROKEN]
    found = (len(broken) + len(own), len(audit.findings) - len(broken))
    if broken:
        where = f"entry {broken[0].entry}: " if broken[0].entry else ""
        return Verdict(Outcome.BROKEN, f"{_BROKEN}{where}{broken[0].problem}", *found)
    if own:
        return Verdict(Outcome.BROKEN, f"{_BROKEN}{own[0].problem}", *found)
    number = audit.head[0]
    until = f"holds up to entry {number}, {moment(audit.period[1])}" if number else "has no entry"
    if reach.records:
        runs = ", ".join(run[:16] for run in reach.records)
        return Verdict(Outcome.HOLDS, f"{until}, and agrees with the server on run {runs}", *found)
    if number and audit.anchored >= number:
        return Verdict(Outcome.HOLDS, f"{until}, which the anchor names", *found)
    if reach.is_live and (audit.countersigned or not audit.charges):
        return Verdict(Outcome.HOLDS, f"{until}, where its folder ends now", *found)
    return Verdict(Outcome.SO_FAR, f"{until}; {_NO_MORE}", *found)


def overall(sites: Sequence[tuple[str, Verdict]], lacking: Sequence[Omission]) -> Verdict:
    """Returns one verdict on all ledgers that were shown.

    Args:
        sites: Names and verdicts.
        lacking: What ledgers and other records do not agree on, of all sites.
    """
    names = {name for name, _ in sites}
    others = [one for one in lacking if one.site not in names]
    errors = sum(verdict.errors for _, verdict in sites) + len(others)
    warnings = sum(verdict.warnings for _, verdict in sites)
    broken = [
        f"{name}: {v.sentence.removeprefix(_BROKEN)}"
        for name, v in sites
        if v.outcome is Outcome.BROKEN
    ]
    broken += [f"{one.site}: {one.problem}" for one in others]
    if broken:
        return Verdict(Outcome.BROKEN, broken[0], errors, warnings)
    outcome = max((v.outcome for _, v in sites), key=lambda one: one.exit_code)
    if outcome is Outcome.HOLDS and len(sites) > 1:
        return Verdict(outcome, ", ".join(name for name, _ in sites), errors, warnings)
    told = "; ".join(f"{name} {v.sentence.removesuffix(f'; {_NO_MORE}')}" for name, v in sites)
    if outcome is Outcome.SO_FAR:
        open_ = [name for name, v in sites if v.outcome is Outcome.SO_FAR]
        where = f" at {', '.join(open_)}" if len(open_) < len(sites) else ""
        told = f"{told}; {_NO_MORE}{where}"
    return Verdict(outcome, told, errors, warnings)


def in_words(verdict: Verdict) -> str:
    """Returns the verdict on everything on one line."""
    return f"{verdict.outcome.value.upper()}: {verdict.sentence} ({counts(verdict)})"


def counts(verdict: Verdict) -> str:
    """Returns how many errors and warnings there are."""
    errors = "1 error" if verdict.errors == 1 else f"{verdict.errors} errors"
    warnings = "1 warning" if verdict.warnings == 1 else f"{verdict.warnings} warnings"
    return f"{errors}, {warnings}"
