"""A run as one self-contained HTML page: plots, tables, and what was run exactly."""

import shlex
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hortus.pages.plots import Plot, describe, svg
from hortus.pages.templates import templates
from hortus.planning.plan_file import dump_plan
from hortus.protocol.plan import Plan
from hortus.runtime.files import write_atomic
from hortus.runtime.metric import NOT_MEASURED, Metric
from hortus.server.run.diagnosis import Compared, Diagnosis, diagnose
from hortus.server.run.records import RoundRecord, best_round
from hortus.server.run.view import RunView, epsilon_plot, metric_plot, read_view

_LIBRARIES = (
    "hortus",
    "flwr",
    "torch",
    "transformers",
    "peft",
    "opacus",
    "dp-accounting",
    "cryptography",
)


def report_deployment(directory: Path, plan: Plan) -> Path:
    """Writes the report of a deployed run.

    Args:
        directory: The run's folder, where `report.html` goes.
        plan: Its plan.

    Returns:
        The page.

    Raises:
        HortusError: The run cannot be read, or the page cannot be written.
    """
    view, path = read_view(directory), directory / "report.html"
    write_report(path, view, plan, metric_plot(view))
    return path


def write_report(
    path: Path,
    view: RunView,
    plan: Plan,
    evaluation: Plot,
    *,
    package: str = "hortus.server.web",
    template: str = "report.html",
    compared: Compared = Compared(),  # noqa: B008 - frozen
    **more: Any,  # noqa: ANN401 - whatever the template asks for
) -> Diagnosis:
    """Writes a report.

    Args:
        path: Where the page goes.
        view: The run.
        plan: Its plan.
        evaluation: The first plot.
        package: Has the template.
        template: `report.html`, or one that extends it.
        compared: What else the result is compared with.
        more: What such a template asks for besides.

    Returns:
        What it says of the result.
    """
    diagnosis = diagnose(plan, view.rounds, compared)
    best, epsilon = best_round(view.rounds), epsilon_plot(view)
    page = (
        templates(package, "hortus.server.web")
        .get_template(template)
        .render(
            view=view,
            plan=plan,
            plan_yaml=dump_plan(plan).decode(),
            digest=view.contract.digest(),
            evaluation=(svg(evaluation), describe(evaluation)),
            epsilon=(svg(epsilon), describe(epsilon)),
            best=best,
            breakdowns=_breakdowns(view.last, best),
            diagnosis=diagnosis,
            versions={name: version(name) for name in _LIBRARIES},
            audit=f"hortus audit {shlex.quote(str(view.directory))}",
            **more,
        )
    )
    write_atomic(path, page.encode())
    return diagnosis


@dataclass(frozen=True, slots=True)
class _Row:
    """A part of the records: its metric after the last round and after the best one, as text."""

    label: str
    count: int
    last: str
    best: str


def _breakdowns(
    last: RoundRecord | None, best: RoundRecord | None
) -> list[tuple[Metric, list[_Row]]]:
    """Returns each metric that was broken down, and its parts, the worst first."""
    tables = []
    for metric in last.metrics if last else ():
        others = {
            part.label: metric.cell(part.value)
            for other in (best.metrics if best else ())
            if other.name == metric.name
            for part in other.worst_first()
        }
        rows = [
            _Row(p.label, p.count, metric.cell(p.value), others.get(p.label, NOT_MEASURED))
            for p in metric.worst_first()
        ]
        if rows:
            tables.append((metric, rows))
    return tables
