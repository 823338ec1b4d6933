"""The audit as one self-contained page, to read or to print."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hortus import __version__
from hortus.cli.audit_table import OF_A_ROUND, grouped_rounds
from hortus.cli.audit_text import departed_backing
from hortus.pages.plots import Plot, Points, describe, svg
from hortus.pages.templates import templates
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.attacks.detection import gaussian_true_positive, true_positive_bound_of
from hortus.privacy.audit.auditor import Audit
from hortus.privacy.audit.findings import Severity, grouped
from hortus.privacy.audit.totals import AccountTotal, account_rows, account_totals, plan_totals
from hortus.privacy.audit.verdict import Outcome, in_words
from hortus.privacy.ledger.charges import Added
from hortus.runtime.moments import moment, period
from hortus.server.audit_report import AuditReport

_FALSE_POSITIVE_RATES = (0.01, 0.001)
# Values of ε that others promise: the scale for comparison.
_SCALE = (1.0, 2.0, 4.0, 8.0, 10.0, 20.0)
_SCALE_DELTA = 1e-5
_BADGES = {Outcome.HOLDS: "holds", Outcome.SO_FAR: "open", Outcome.BROKEN: "stopped"}


@dataclass(frozen=True, slots=True)
class _Account:
    """The final state of a site's account.

    Attributes:
        site: The site.
        total: Its numbers.
        bounds: For each of `_FALSE_POSITIVE_RATES`: the largest share of present units that a test
            may find.
    """

    site: str
    total: AccountTotal
    bounds: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class _Mark:
    """A row of the scale.

    Attributes:
        epsilon: ε.
        found: Share of present units found at 1 % false alarms.
        whose: Whose ε it is; empty for a mark of the scale.
    """

    epsilon: float
    found: float
    whose: str = ""


def audit_page(report: AuditReport) -> str:
    """Returns the page, HTML."""
    audits = [one.audit for one in report.sites]
    accounts = [one for audit in audits for one in _accounts(audit)]
    plot = _plot(audits)
    environment = templates("hortus.cli")
    environment.filters |= {
        "moment": moment,
        "epsilon": _epsilon,
        "backing": departed_backing,
    }
    return environment.get_template("audit.html").render(
        report=report,
        words=in_words(report.verdict),
        badge=_BADGES[report.verdict.outcome],
        badges=_BADGES,
        audits=audits,
        period=_period(audits),
        accounts=accounts,
        plans=[(audit.site, one) for audit in audits for one in plan_totals(audit)],
        names={plan: audit.names.get(plan) for audit in audits for plan in _charged(audit)},
        scale=_scale(accounts),
        plot=svg(plot),
        plot_label=describe(plot),
        is_rehearsal=any(row.mechanism == Added.REHEARSED for a in audits for row in a.rounds),
        grouped_rounds=grouped_rounds,
        columns=OF_A_ROUND[1:],
        findings=[
            (audit.site, one, last) for audit in audits for one, last in grouped(audit.findings)
        ],
        severity=Severity,
        version=__version__,
    )


def _charged(audit: Audit) -> list[str]:
    return list(dict.fromkeys(charge.plan for charge in audit.charges))


def _period(audits: Sequence[Audit]) -> str:
    spans = [audit.period for audit in audits if audit.entries]
    return period(min(s[0] for s in spans), max(s[1] for s in spans)) if spans else "none"


def _accounts(audit: Audit) -> Iterator[_Account]:
    for total in account_totals(audit):
        rates = [(rate, _detected(audit, total.dataset, rate)) for rate in _FALSE_POSITIVE_RATES]
        yield _Account(audit.site, total, tuple(rates))


def _detected(audit: Audit, account: str, rate: float) -> float:
    """Bounds a test by the whole loss distribution of everything charged: tighter than one (ε, δ)."""
    charges = [c for c in audit.charges if audit.accounts[c.dataset] == account]
    if not all(charge.is_private for charge in charges):
        return 1.0
    history: Counter[GaussianEvent] = Counter()
    for charge in charges:
        history[charge.event] += charge.releases
    return true_positive_bound_of(history, rate)


def _scale(accounts: Sequence[_Account]) -> list[_Mark]:
    """The scale, with the accounts at their places."""
    rate = _FALSE_POSITIVE_RATES[0]
    marks = [_Mark(e, gaussian_true_positive(e, _SCALE_DELTA, rate)) for e in _SCALE]
    marks += [
        _Mark(one.total.epsilon, one.bounds[0][1], f"{one.site}, {one.total.dataset[:8]}")
        for one in accounts
    ]
    return sorted(marks, key=lambda mark: mark.epsilon)


def _plot(audits: Sequence[Audit]) -> Plot:
    """Sites with the same course of ε share a curve; otherwise one would hide the others."""
    curves: dict[Points, list[str]] = {}
    limits: dict[Points, list[str]] = {}
    for audit in audits:
        for rows in account_rows(audit).values():
            numbered = list(enumerate(rows, start=1))
            spent = tuple(
                (float(number), row.epsilon_so_far)
                for number, row in numbered
                if math.isfinite(row.epsilon_so_far)
            )
            allowed = tuple(
                (float(number), row.limit) for number, row in numbered if math.isfinite(row.limit)
            )
            for points, kind in ((spent, curves), (allowed, limits)):
                if points:
                    kind.setdefault(points, []).append(audit.site)
    return Plot(
        "spent",
        "ε spent",
        {", ".join(dict.fromkeys(names)): points for points, names in curves.items()},
        remark="Nothing was released, or something was released without noise.",
        over="round in the ledger",
        steps={
            f"limit of {', '.join(dict.fromkeys(names))}": points
            for points, names in limits.items()
        },
    )


def _epsilon(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "none"
