"""A run as one self-contained HTML page: plots, tables, and what is needed to repeat it."""

import io
import math
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2
import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hortus.privacy.ledger import Entry, Ledger
from hortus.protocol.consortium import SiteFiles
from hortus.protocol.files import write_atomic
from hortus.protocol.identity import SiteIdentity
from hortus.protocol.plan import Plan
from hortus.protocol.plan_file import dump_plan
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
# Stands for the page's text colour, which a plot cannot know.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.prop_cycle": cycler(
        color=("#2f8f5b", "#c2703d", "#5b7fc7", "#a35fb0", "#a68a1f", "#2f9a97")
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}
# What an `id` is in matplotlib's SVG, and what refers to one.
_SVG_NAME = re.compile(r'(?<= id=")|(?<=href="#)|(?<=url\(#)')

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class _Site:
    """A site at the end of the run.

    Attributes:
        name: The site.
        policy: What it allows.
        entries: Number of ledger entries.
        spent: Largest ε of its datasets; None after a release without noise.
        points: ε after each round of the run that it took part in.
        left: Why it left, and when; empty if it did not.
    """

    name: str
    policy: Policy
    entries: int
    spent: float | None
    points: Points
    left: str


@dataclass(frozen=True, slots=True)
class _Plot:
    """A plot over rounds.

    Attributes:
        name: Tells its SVG identifiers from those of other plots.
        quantity: What is on the y axis.
        curves: Values by round, by label.
        levels: Horizontal lines, by label.
        remark: Stands in the plot when there is no curve.
    """

    name: str
    quantity: str
    curves: Mapping[str, Points]
    levels: Mapping[str, float]
    remark: str


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
        HortusError: A ledger was altered, or the page cannot be written.
    """
    sites = [_site(run, name) for name in run.consortium.sites]
    accuracy, epsilon = _accuracy_plot(run, without_privacy, alone), _epsilon_plot(sites)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hortus.simulation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        plan=plan,
        plan_yaml=dump_plan(plan).decode(),
        contract=run.contract,
        digest=run.contract.digest(),
        rounds=run.store.rounds,
        sites=sites,
        timings=sorted(run.timings.items(), key=lambda item: -item[1]),
        comparison=_comparison(run, without_privacy, alone),
        accuracy_plot=_draw(accuracy),
        accuracy_label=_describe(accuracy),
        epsilon_plot=_draw(epsilon),
        epsilon_label=_describe(epsilon),
        versions={name: version(name) for name in _LIBRARIES},
        command=f"hortus simulate plan.yaml --out {shlex.quote(f'{run.directory}-again')}",
        audit=f"hortus audit {shlex.quote(str(run.directory))}",
    )
    write_atomic(path, page.encode())
    return path


def _site(run: SimulatedRun, name: str) -> _Site:
    files = run.consortium.site(name)
    entries = _entries(files, name)
    after = {e.charge.round: e.epsilon_after for e in entries if e.charge.run == run.store.run}
    spent = max((entry.epsilon_after for entry in entries), default=0.0)
    departures = [d for d in run.store.departures if d.site == name]
    return _Site(
        name=name,
        policy=Policy.load(files.policy),
        entries=len(entries),
        spent=spent if math.isfinite(spent) else None,
        points=tuple((number + 1, epsilon) for number, epsilon in sorted(after.items())),
        left="; ".join(f"round {d.round + 1}: {d.reason}" for d in departures),
    )


def _entries(files: SiteFiles, name: str) -> list[Entry]:
    """Reads a site's ledger; opening it checks its chain and last signature."""
    if not files.ledger.exists():
        return []
    identity = SiteIdentity.load(files.identity, name)
    with closing(Ledger.open(files.ledger, identity, time.time)) as ledger:
        return list(ledger.entries())


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
    run: SimulatedRun, without_privacy: SimulatedRun | None, alone: Sequence[Alone]
) -> _Plot:
    curves = {"this run": _accuracy(run)}
    if without_privacy is not None:
        curves["without privacy"] = _accuracy(without_privacy)
    reached = [(100 * s.metrics["accuracy"], s.site) for s in alone if "accuracy" in s.metrics]
    levels = {}
    if reached:
        value, site = max(reached)
        levels[f"best single site alone ({site})"] = value
    remark = "The plan names no evaluation records."
    return _Plot("accuracy", "accuracy, %", curves, levels, remark)


def _accuracy(run: SimulatedRun) -> Points:
    return tuple(
        (record.round + 1, 100 * record.metrics["accuracy"])
        for record in run.store.rounds
        if "accuracy" in record.metrics
    )


def _epsilon_plot(sites: Sequence[_Site]) -> _Plot:
    """Sites whose ε went the same way share a curve: it would hide all but one."""
    alike: dict[Points, list[str]] = {}
    for site in sites:
        finite = tuple(point for point in site.points if math.isfinite(point[1]))
        alike.setdefault(finite, []).append(site.name)
    curves = {_together(names): points for points, names in alike.items() if points}
    if any(site.spent is None for site in sites):
        return _Plot("epsilon", "ε spent", curves, {}, "No noise, so no bound: ε is infinite.")
    levels = {
        f"budget {site.policy.budget.epsilon:.4g}": site.policy.budget.epsilon for site in sites
    }
    return _Plot("epsilon", "ε spent", curves, levels, "No site has released anything.")


def _together(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def _draw(plot: _Plot) -> Markup:
    """Returns the plot as an SVG element in the page's own text colour."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE | {"svg.hashsalt": plot.name}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        _fill(figure.add_subplot(), plot)
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return Markup(_SVG_NAME.sub(f"{plot.name}-", svg))  # noqa: S704 - matplotlib escapes labels


def _fill(axes: Axes, plot: _Plot) -> None:
    axes.set(xlabel="round", ylabel=plot.quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for label, points in plot.curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=label)
    for label, value in plot.levels.items():
        axes.axhline(value, linestyle="--", linewidth=1.2, color=_INK, alpha=0.6, label=label)
    if not any(plot.curves.values()):
        axes.text(0.5, 0.5, plot.remark, ha="center", transform=axes.transAxes)
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")


def _describe(plot: _Plot) -> str:
    """Puts the plot into words, for who cannot see it."""
    parts = [
        f"{label}: {points[0][1]:.4g} after round {points[0][0]}, "
        f"{points[-1][1]:.4g} after round {points[-1][0]}"
        for label, points in plot.curves.items()
        if points
    ] or [plot.remark.removesuffix(".")]
    parts += [f"dashed line, {label}: {value:.4g}" for label, value in plot.levels.items()]
    return f"Plot of {plot.quantity}, by round. {'; '.join(parts)}."
