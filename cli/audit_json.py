"""The audit as JSON: ISO 8601 times, rounds from 1, errors apart from warnings, totals."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from hortus.privacy.audit.auditor import Audit
from hortus.privacy.audit.findings import Finding, Severity
from hortus.privacy.audit.totals import account_totals, plan_totals
from hortus.privacy.audit.verdict import Verdict
from hortus.runtime.moments import iso_time
from hortus.server.audit_report import AuditReport, SiteReport

_TIMES = ("time", "began", "ended")


def as_json(report: AuditReport) -> Any:  # noqa: ANN401 - any JSON
    """Returns the report; an ε or limit that is infinite is `null`: JSON has no number for it."""
    value = {
        "verdict": _verdict(report.verdict),
        "holds": report.verdict.outcome.value == "holds",
        "made": iso_time(report.made),
        "roster": report.roster or None,
        "runs": report.runs,
        "sites": [_site(one) for one in report.sites],
        "omissions": [asdict(one) for one in report.lacking],
        "departures": [_from_one(asdict(one)) for one in report.departures],
    }
    return _finite(value)


def _verdict(verdict: Verdict) -> dict[str, object]:
    exit_code = {"exit_code": verdict.outcome.exit_code}
    return asdict(verdict) | {"outcome": verdict.outcome.value} | exit_code


def _site(one: SiteReport) -> dict[str, object]:
    audit = one.audit
    errors = [f for f in audit.findings if f.severity is Severity.BROKEN]
    warnings = [f for f in audit.findings if f.severity is Severity.WARNING]
    return {
        "verdict": _verdict(one.verdict),
        "site": audit.site,
        "source": one.source,
        "sha256": one.digest or None,
        "key": audit.key,
        "server_key": audit.server_key,
        "entries": audit.entries,
        "first_time": _time(audit.entries, audit.period[0]),
        "last_time": _time(audit.entries, audit.period[1]),
        "head": {"entry": audit.head[0], "hash": audit.head[1]},
        "countersigned": {
            "entry": audit.countersigned,
            "time": _time(audit.countersigned, audit.countersigned_time),
        },
        "anchored": audit.anchored,
        "errors": _findings(errors),
        "warnings": _findings(warnings),
        "totals": [_times(asdict(total)) for total in account_totals(audit)],
        "plans": [_times(asdict(total)) for total in plan_totals(audit)],
        "approvals": [_times(asdict(said)) for said in audit.plans],
        "rounds": _rounds(audit),
        "decisions": [_times(asdict(decision)) for decision in audit.decisions],
        "refusals": [_from_one(_times(asdict(refusal))) for refusal in audit.refusals],
    }


def _rounds(audit: Audit) -> list[dict[str, object]]:
    return [
        _from_one(_times(asdict(row))) | {"plan_name": audit.names.get(row.plan), "left": row.left}
        for row in audit.rounds
    ]


def _findings(findings: Iterable[Finding]) -> list[dict[str, object]]:
    return [
        {"entry": one.entry or None, "problem": one.problem, "meaning": one.meaning}
        for one in findings
    ]


def _time(exists: int, seconds: float) -> str | None:
    return iso_time(seconds) if exists else None


def _times(value: dict[str, Any]) -> dict[str, Any]:
    return value | {name: iso_time(value[name]) for name in _TIMES if name in value}


def _from_one(value: dict[str, Any]) -> dict[str, Any]:
    """Counts rounds from 1, as people do; a refusal before any run has no round."""
    is_of_none = value.get("run") == ""
    return value | {"round": None if is_of_none else value["round"] + 1}


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
