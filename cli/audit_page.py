"""The audit as one self-contained page, to read or to print."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hortus.pages.plots import Plot, describe, svg
from hortus.pages.templates import templates
from hortus.privacy.audit import Audit
from hortus.privacy.audit_rounds import RoundRow
from hortus.privacy.detection import true_positive_bound_of
from hortus.privacy.events import GaussianEvent
from hortus.privacy.omissions import Departed, Omission

_FALSE_POSITIVE_RATES = (0.01, 0.001)


@dataclass(frozen=True, slots=True)
class _Dataset:
    """Where a dataset of a site stands in the end.

    Attributes:
        site: The site.
        row: Its last round.
        bounds: For each of `_FALSE_POSITIVE_RATES`: the largest share of present units that a test
            may find.
    """

    site: str
    row: RoundRow
    bounds: tuple[tuple[float, float], ...]


def audit_page(
    audits: Sequence[Audit], lacking: Sequence[Omission], departures: Sequence[Departed]
) -> str:
    """Returns the page, HTML."""
    plot = _plot(audits)
    environment = templates("hortus.cli")
    environment.filters["moment"] = _moment
    environment.filters["epsilon"] = _epsilon
    environment.filters["percent_up"] = percent_up
    return environment.get_template("audit.html").render(
        audits=audits,
        lacking=lacking,
        departures=departures,
        holds=not lacking and not any(one.first_broken for one in audits),
        datasets=[one for audit in audits for one in _datasets(audit)],
        plot=svg(plot),
        plot_label=describe(plot),
    )


def _datasets(audit: Audit) -> list[_Dataset]:
    last = {audit.accounts[row.dataset]: row for row in audit.rounds}
    return [
        _Dataset(
            audit.site,
            row,
            tuple((rate, _detected(audit, account, rate)) for rate in _FALSE_POSITIVE_RATES),
        )
        for account, row in last.items()
    ]


def _detected(audit: Audit, account: str, rate: float) -> float:
    """Bounds a test by the whole loss of all that was charged: tighter than by one (ε, δ) of it."""
    charges = [c for c in audit.charges if audit.accounts[c.dataset] == account]
    if not all(charge.is_private for charge in charges):
        return 1.0
    history: Counter[GaussianEvent] = Counter()
    for charge in charges:
        history[charge.event] += charge.releases
    return true_positive_bound_of(history, rate)


def _plot(audits: Sequence[Audit]) -> Plot:
    """Sites whose ε went the same way share a curve: it would hide all but one."""
    curves: dict[tuple[tuple[float, float], ...], list[str]] = {}
    levels: dict[str, float] = {}
    for audit in audits:
        for account in dict.fromkeys(audit.accounts[row.dataset] for row in audit.rounds):
            rows = [row for row in audit.rounds if audit.accounts[row.dataset] == account]
            points = tuple(
                (float(number), row.epsilon_so_far)
                for number, row in enumerate(rows, start=1)
                if math.isfinite(row.epsilon_so_far)
            )
            curves.setdefault(points, []).append(audit.site)
            if math.isfinite(rows[-1].limit):
                levels[f"limit {rows[-1].limit:.4g}"] = rows[-1].limit
    return Plot(
        "spent",
        "ε spent",
        {", ".join(dict.fromkeys(names)): points for points, names in curves.items() if points},
        levels,
        "Nothing was released, or without noise.",
        over="round in the ledger",
    )


def _moment(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"


def _epsilon(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "none"


def percent_up(share: float) -> str:
    """Writes an upper bound on a share of one: rounded up, it stays one."""
    return f"{math.ceil(1000 * share) / 10:.1f} %"
