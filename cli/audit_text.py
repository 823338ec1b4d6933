"""What `hortus audit` prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from hortus.cli.audit_table import round_tables
from hortus.privacy.audit.auditor import Audit, Decision, PlanDecision
from hortus.privacy.audit.findings import Severity, grouped
from hortus.privacy.audit.reconcile import Departed
from hortus.privacy.audit.verdict import Outcome, counts, in_words
from hortus.runtime.moments import moment

if TYPE_CHECKING:
    from hortus.server.audit_report import AuditReport

_STYLES = {Outcome.HOLDS: "green", Outcome.SO_FAR: "yellow", Outcome.BROKEN: "red"}
_BACKING = {
    True: "signed in its ledger",
    False: "only the server says so",
    None: "its ledger is not here",
}


def show_report(console: Console, report: "AuditReport") -> None:
    """Prints each ledger with its verdict, then what other records say, then the overall verdict."""
    for one in report.sites:
        _show_ledger(console, one.audit)
        if len(report.sites) > 1:
            told = f"{one.audit.site} {one.verdict.sentence} ({counts(one.verdict)})"
            console.print(told, style=_STYLES[one.verdict.outcome])
            console.print()
    for departure in report.departures:
        backing = _BACKING[departure.is_signed]
        console.print(
            f"{departure.site}, from round {departure.round + 1} on: {departure.reason} ({backing})"
        )
    for omission in report.lacking:
        console.print(f"{omission.site}: {omission.problem}", style="red")
    style = f"bold {_STYLES[report.verdict.outcome]}"
    console.print(in_words(report.verdict), style=style)


def _show_ledger(console: Console, audit: Audit) -> None:
    console.print(f"{audit.site}: {audit.entries} entries", style="bold")
    for part in round_tables(audit.rounds, audit.names):
        console.print(part)
    for line in [*map(plan_line, audit.plans), *map(_decision_line, audit.decisions)]:
        console.print(line)
    for refusal in audit.refusals:
        asked = f"run {refusal.run[:16]}, round {refusal.round + 1}" if refusal.run else "a plan"
        console.print(f"entry {refusal.entry}: refused {asked}: {refusal.reason}")
    for finding, last in grouped(audit.findings):
        style = "red" if finding.severity is Severity.BROKEN else "yellow"
        where = _where(finding.entry, last)
        console.print(f"{where}: {finding.problem}. {finding.meaning}", style=style)
    console.print(_head_line(audit))


def _where(first: int, last: int) -> str:
    if not first:
        return "the ledger"
    return f"entry {first}" if first == last else f"entries {first} to {last}"


def plan_line(one: PlanDecision) -> str:
    """Says who approved or withdrew what, and when."""
    start, plan = f"entry {one.entry}, {moment(one.time)}", f"{one.name} ({one.plan[:16]})"
    if one.kind == "withdrawal":
        return f"{start}: {one.operator} withdrew from {plan}: {one.reason}"
    by = f"{one.operator} approved" if one.operator else "auto_approve admitted"
    cost = f"at most ε = {one.epsilon:.4g} at δ = {one.delta:g} for one {one.unit}"
    return f"{start}: {by} {plan}, {cost}"


def _decision_line(one: Decision) -> str:
    told = f" ε = {one.epsilon:g}" if one.epsilon else ""
    if one.others:
        told = f" from {_short(one.others)}, says {one.operator}"
    start = f"entry {one.entry}, {moment(one.time)}"
    return f"{start}: {one.kind}{told}, {one.dataset[:16]}: {one.reason}"


def _short(datasets: Sequence[str]) -> str:
    return ", ".join(one[:16] for one in datasets)


def _head_line(audit: Audit) -> str:
    seq, hash_ = audit.head
    if audit.countersigned:
        seen = f"the server countersigned entry {audit.countersigned}"
        seen += f", {moment(audit.countersigned_time)}"
    else:
        seen = "the server has not countersigned any entry"
    line = f"ends with entry {seq} ({hash_[:16]}…); {seen}"
    witnessed = max(audit.countersigned, audit.anchored)
    if witnessed >= seq:
        return line
    return (
        f"{line}; from entry {witnessed + 1} on, the ledger rests on the site's word: keep an anchor "
        "elsewhere (hortus budget anchor)"
    )


def departed_backing(one: Departed) -> str:
    """Says what confirms a departure in addition to the server's word."""
    return _BACKING[one.is_signed]
