"""Audits of ledgers and runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hortus.api.plans import PathLike
from hortus.api.runs import Run


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit has found.

    Attributes:
        holds: Whether everything holds, and was compared with something that the sites do not keep.
        verdict: `holds`, `holds so far` (nothing shows what came later) or `does not hold`.
        sentence: What holds up to where, or the first thing that does not.
        epsilon: By site, the largest ε that any of its datasets has spent; infinite if something was released
            without noise.
        errors: What does not hold, a sentence each.
        warnings: What an auditor should read, a sentence each.
    """

    holds: bool
    verdict: str
    sentence: str
    epsilon: Mapping[str, float]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.sentence}"


def audit(
    *paths: PathLike | Run, anchor: PathLike | None = None, roster: PathLike | None = None
) -> Audit:
    """Verifies ledgers, and recomputes every ε with a second accountant.

    Args:
        paths: Evidence bundles, folders of sites, or runs, alone or with those of their sites.
        anchor: An earlier head of a ledger, kept elsewhere.
        roster: Keys to trust instead of those in the evidence.

    Raises:
        HortusError: A path is missing or cannot be audited, or there is no ledger.
    """
    from hortus.privacy.audit.findings import Severity
    from hortus.privacy.audit.totals import account_totals
    from hortus.privacy.audit.verdict import Outcome
    from hortus.server.audit_report import make_report

    places = [path.directory if isinstance(path, Run) else Path(path) for path in paths]
    report = make_report(
        places,
        None if anchor is None else Path(anchor),
        None if roster is None else Path(roster),
        time.time(),
    )
    found = [
        (finding.severity, f"{one.audit.site}: {finding.problem}. {finding.meaning}")
        for one in report.sites
        for finding in one.audit.findings
    ]
    missing = tuple(f"{one.site}: {one.problem}" for one in report.lacking)
    return Audit(
        holds=report.verdict.outcome is Outcome.HOLDS,
        verdict=report.verdict.outcome.value,
        sentence=report.verdict.sentence,
        epsilon={
            one.audit.site: max((total.epsilon for total in account_totals(one.audit)), default=0.0)
            for one in report.sites
        },
        errors=tuple(told for severity, told in found if severity is Severity.BROKEN) + missing,
        warnings=tuple(told for severity, told in found if severity is Severity.WARNING),
    )
