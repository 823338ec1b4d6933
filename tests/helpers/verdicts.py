"""Histories and lies, put before the auditor: what it clears and what it finds, counted."""

import tempfile
from collections import Counter
from pathlib import Path

from helpers.histories import History, make_history
from helpers.lies import Lie, tell_lie
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import Evidence, export, load
from hortus.privacy.audit.findings import Severity
from hortus.privacy.audit.reconcile import ServerRecord, omissions
from hortus.protocol.heads import LedgerHead

HONEST = "an honest history"
Verdict = tuple[str, str]  # what was shown; the first thing that is wrong with the auditor's answer


def examine(number: int, examples: int, folder: Path) -> tuple[Counter[str], list[Verdict]]:
    """Shows the auditor so many histories, and a lie about each that has room for the one drawn.

    Args:
        number: The seed.
        examples: How many histories.
        folder: For ledgers; in memory, their fsync costs nothing.

    Returns:
        How often each kind was judged rightly, and every verdict that is wrong.
    """
    right: Counter[str] = Counter()
    wrong: list[Verdict] = []

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def show(data: st.DataObject) -> None:
        def below(most: int) -> int:
            return data.draw(st.integers(0, most - 1))

        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            history = make_history(below, Path(fresh) / "ledger.sqlite")
            problem = _accusation(history)
            if not below(16):
                problem = problem or _loss_in_a_bundle(history, Path(fresh) / "bundle")
        _count(HONEST, problem)
        lie = tell_lie(below, history)
        if lie is not None:
            _count(lie.kind, _oversight(lie, history))

    def _count(kind: str, problem: str) -> None:
        if problem:
            wrong.append((kind, problem))
        else:
            right[kind] += 1

    show()
    return right, wrong


def _problems(
    evidence: Evidence, records: tuple[ServerRecord, ...], anchor: LedgerHead | None = None
) -> tuple[list[str], Counter[str]]:
    """What is broken, and what is warned of."""
    audited = audit(evidence, evidence.roster, anchor)
    told = [(one.severity, f"{one.problem}. {one.meaning}") for one in audited.findings]
    lacking = [one.problem for record in records for one in omissions(record, [audited])]
    broken = [text for severity, text in told if severity is Severity.BROKEN]
    warned = Counter(text for severity, text in told if severity is Severity.WARNING)
    return [*broken, *lacking], warned


def _accusation(history: History) -> str:
    """What an honest history is accused of, or warned of without having earned it."""
    broken, warned = _problems(history.evidence, history.records)
    unearned = [text for text in warned if not any(word in text for word in history.earned)]
    return next(iter([*broken, *unearned]), "")


def _loss_in_a_bundle(history: History, path: Path) -> str:
    export(history.evidence, path)
    return "" if load(path) == history.evidence else "a bundle of it holds something else"


def _oversight(lie: Lie, history: History) -> str:
    """Says that a lie passed: nothing is broken, nor warned of beyond what the truth is warned of."""
    broken, warned = _problems(lie.evidence, lie.records, lie.anchor)
    if broken:
        return ""
    _, before = _problems(history.evidence, history.records)
    return "" if not lie.breaks and warned - before else f"passed with {sorted(warned)}"
