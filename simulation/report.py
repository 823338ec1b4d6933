"""A run as one self-contained HTML page: plots, tables, and what is needed to repeat it."""

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hortus.privacy.audit import RoundRow, audit_ledger
from hortus.protocol.files import write_atomic
from hortus.protocol.identity import Roster
from hortus.protocol.plan import Plan
from hortus.protocol.policy import Policy
from hortus.simulation.demo import Alone
from hortus.simulation.simulate import SimulatedRun

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
_STYLE = {"svg.fonttype": "none", "font.family": "sans-serif"}


@dataclass(frozen=True, slots=True)
class _SiteRow:
    """A site at the end of the run."""

    name: str
    spent: float
    policy: Policy
    entries: int
    rounds: tuple[RoundRow, ...]
    holds: bool
    left: str


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
    """
    sites = [_site(run, name) for name in run.consortium.sites]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hortus.simulation", "."), autoescape=True
    )
    page = environment.get_template("report.html").render(
        plan=plan,
        plan_yaml=yaml.safe_dump(
            plan.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
        ),
        contract=run.contract,
        digest=run.contract.digest(),
        rounds=run.store.rounds,
        sites=sites,
        departures=run.store.departures,
        timings=sorted(run.timings.items(), key=lambda item: -item[1]),
        comparison=_comparison(run, without_privacy, alone),
        accuracy_plot=_plot(_draw_accuracy, run, without_privacy, alone),
        epsilon_plot=_plot(_draw_epsilon, sites),
        versions={name: version(name) for name in _LIBRARIES},
        command=f"hortus simulate PLAN.yaml --out {shlex.quote(str(run.directory))}",
    )
    write_atomic(path, page.encode())
    return path


def _site(run: SimulatedRun, name: str) -> _SiteRow:
    files = run.consortium.site(name)
    audit = audit_ledger(files.ledger, Roster.load(files.roster).sites[name], name)
    return _SiteRow(
        name=name,
        spent=audit.rounds[-1].epsilon_so_far if audit.rounds else 0.0,
        policy=Policy.load(files.policy),
        entries=audit.entries,
        rounds=audit.rounds,
        holds=audit.first_broken is None,
        left="; ".join(d.reason for d in run.store.departures if d.site == name),
    )


def _comparison(
    run: SimulatedRun, without_privacy: SimulatedRun | None, alone: Sequence[Alone]
) -> list[tuple[str, Mapping[str, float]]]:
    rows: list[tuple[str, Mapping[str, float]]] = [
        (f"{site.site} alone, without privacy", site.metrics) for site in alone
    ]
    rows.append(("federated, this run", run.store.rounds[-1].metrics))
    if without_privacy is not None:
        rows.append(("federated, without privacy", without_privacy.store.rounds[-1].metrics))
    return rows


def _plot(draw: Any, *data: Any) -> Markup:  # noqa: ANN401 - passed on as they are
    """Draws with one of the functions below; returns the SVG element."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("round")
    draw(axes, *data)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 - matplotlib escapes the labels in it


def _draw_accuracy(
    axes: Axes, run: SimulatedRun, without_privacy: SimulatedRun | None, alone: Sequence[Alone]
) -> None:
    for name, one in (("this run", run), ("without privacy", without_privacy)):
        points = [
            (record.round + 1, 100 * record.metrics["accuracy"])
            for record in (one.store.rounds if one else ())
            if "accuracy" in record.metrics
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    if alone:
        best = max(alone, key=lambda site: site.metrics["accuracy"])
        value = 100 * best.metrics["accuracy"]
        axes.axhline(value, linestyle="--", color="grey", label=f"best site alone ({best.site})")
    axes.set_ylabel("accuracy, %")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _draw_epsilon(axes: Axes, sites: Sequence[_SiteRow]) -> None:
    for site in sites:
        points = [(row.round + 1, row.epsilon_so_far) for row in site.rounds]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=site.name)
    for budget in sorted({site.policy.budget.epsilon for site in sites}):
        axes.axhline(budget, linestyle=":", color="firebrick", label=f"budget {budget:.3g}")
    axes.set_ylabel("ε spent")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small", ncols=2)
