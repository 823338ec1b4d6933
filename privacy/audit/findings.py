"""What an audit finds wrong with a ledger."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


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


def broken(entry: int, problem: str, meaning: str) -> Finding:
    """Makes a finding that ends the trust in a ledger."""
    return Finding(entry, Severity.BROKEN, problem, meaning)


def warning(entry: int, problem: str, meaning: str) -> Finding:
    """Makes a finding that does not."""
    return Finding(entry, Severity.WARNING, problem, meaning)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """By entry, what concerns none of them last; of several of one kind at one entry, the first."""
    ordered: dict[tuple[int, str], Finding] = {}
    for finding in sorted(findings, key=lambda f: (f.entry == 0, f.entry)):
        ordered.setdefault((finding.entry, finding.problem), finding)
    return list(ordered.values())


def grouped(findings: Iterable[Finding]) -> list[tuple[Finding, int]]:
    """Returns findings with the number of the last entry that one stands for.

    Entries that follow one another and have the same problem are one: of a wrong key, all are.
    """
    last: dict[Finding, int] = {}
    open_: dict[tuple[Severity, str], Finding] = {}
    for one in findings:
        kind = (one.severity, one.problem)
        first = open_.get(kind)
        if first is None or one.entry != last[first] + 1:
            first = open_[kind] = one
        last[first] = one.entry
    return list(last.items())
