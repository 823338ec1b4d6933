"""The report of a simulated run: the deployment's, with what only a simulation can compare."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hortus.pages.plots import Plot
from hortus.protocol.plan import Plan
from hortus.server.report import write_report
from hortus.server.run_view import RunView, accuracy, accuracy_plot, read_view
from hortus.simulation.demo import Alone
from hortus.simulation.simulate import SimulatedRun


def report_run(
    run: SimulatedRun,
    plan: Plan,
    path: Path,
    without_privacy: SimulatedRun | None = None,
    alone: Sequence[Alone] = (),
) -> Path:
    """Writes the report.

    Args:
        run: The run.
        plan: Its plan.
        path: Where the page goes.
        without_privacy: The same plan without privacy, to compare with.
        alone: What each site reached alone, to compare with.

    Returns:
        `path`.

    Raises:
        HortusError: A ledger cannot be read, or the page cannot be written.
    """
    view = read_view(run.directory)
    return write_report(
        path,
        view,
        plan,
        _accuracy_plot(view, without_privacy, alone),
        package="hortus.simulation",
        template="simulated.html",
        comparison=_comparison(run, without_privacy, alone),
        command=f"hortus simulate plan.yaml --out {shlex.quote(f'{run.directory}-again')}",
    )


def _comparison(
    run: SimulatedRun, without_privacy: SimulatedRun | None, alone: Sequence[Alone]
) -> list[tuple[str, Mapping[str, float]]]:
    """Returns the metrics at the end, by model."""
    rows: list[tuple[str, Mapping[str, float]]] = [
        (f"{site.site} alone, without privacy", site.metrics) for site in alone
    ]
    for label, one in (
        ("federated, this run", run),
        ("federated, without privacy", without_privacy),
    ):
        if one is not None and one.store.rounds:
            rows.append((label, one.store.rounds[-1].metrics))
    return rows


def _accuracy_plot(
    view: RunView, without_privacy: SimulatedRun | None, alone: Sequence[Alone]
) -> Plot:
    plot = accuracy_plot(view)
    curves = dict(plot.curves)
    if without_privacy is not None:
        curves["without privacy"] = accuracy(without_privacy.store.rounds)
    reached = [(100 * s.metrics["accuracy"], s.site) for s in alone if "accuracy" in s.metrics]
    levels = {}
    if reached:
        value, site = max(reached)
        levels[f"best single site alone ({site})"] = value
    return replace(plot, curves=curves, levels=levels)
