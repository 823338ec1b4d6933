"""The report of a simulated run: the deployment's, with what only a simulation can compare."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hortus.pages.plots import Plot
from hortus.protocol.plan import Plan
from hortus.runtime.metric import Metrics, columns
from hortus.server.run.diagnosis import Compared, Diagnosis
from hortus.server.run.records import RoundRecord, read_run
from hortus.server.run.view import RunView, curve, metric_plot, read_view
from hortus.server.web.report import write_report
from hortus.simulation.demo import Alone, best_alone


def report_run(
    directory: Path,
    plan: Plan,
    path: Path,
    without_privacy: Path | None = None,
    alone: Sequence[Alone] = (),
    cut: float | None = None,
) -> Diagnosis:
    """Writes the report of a run, finished or not.

    Args:
        directory: The run's folder.
        plan: Its plan.
        path: Where the page goes.
        without_privacy: Folder of the same plan's run without privacy, to compare with.
        alone: What each site reached alone, to compare with.
        cut: Share of the units whose gradients were clipped, where that is known.

    Returns:
        What it says of the result.

    Raises:
        HortusError: A ledger cannot be read, or the page cannot be written.
    """
    view = read_view(directory)
    compared = () if without_privacy is None else read_run(without_privacy).rounds
    comparison = _comparison(view.rounds, compared, alone)
    return write_report(
        path,
        view,
        plan,
        _metric_plot(view, compared, alone),
        package="hortus.simulation",
        template="simulated.html",
        compared=_compare(compared, alone, cut),
        comparison=comparison,
        columns=columns(metrics for _, metrics in comparison),
        command=f"hortus simulate plan.yaml --out {shlex.quote(f'{directory}-again')}",
    )


def _compare(
    without_privacy: Sequence[RoundRecord], alone: Sequence[Alone], cut: float | None
) -> Compared:
    """Puts together what a run's result is compared with."""
    single = best_alone(alone)
    unprotected = without_privacy[-1].primary if without_privacy else None
    return Compared(single[1] if single else None, unprotected.value if unprotected else None, cut)


def _comparison(
    rounds: Sequence[RoundRecord], without_privacy: Sequence[RoundRecord], alone: Sequence[Alone]
) -> list[tuple[str, Metrics]]:
    """Returns the metrics at the end, by model."""
    rows = [(f"{site.site} alone, without privacy", site.metrics) for site in alone]
    for label, one in (
        ("federated, this run", rounds),
        ("federated, without privacy", without_privacy),
    ):
        if one:
            rows.append((label, one[-1].metrics))
    return rows


def _metric_plot(
    view: RunView, without_privacy: Sequence[RoundRecord], alone: Sequence[Alone]
) -> Plot:
    plot, metric, single = metric_plot(view), view.primary, best_alone(alone)
    if metric is None:
        return plot
    curves = dict(plot.curves)
    if without_privacy:
        curves["without privacy"] = curve(without_privacy, metric)
    levels = {}
    if single is not None:
        site, value = single
        levels[f"best single site alone ({site.site})"] = metric.unit.drawn(value)
    return replace(plot, curves=curves, levels=levels)
