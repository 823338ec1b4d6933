"""A run as one self-contained HTML page: plots, tables, and what is needed to repeat it."""

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2

from hortus.privacy.entries import Charged
from hortus.privacy.ledger import Ledger
from hortus.protocol.consortium import SiteFiles
from hortus.protocol.files import write_atomic
from hortus.protocol.identity import SiteIdentity
from hortus.protocol.plan import Plan
from hortus.protocol.plan_file import dump_plan
from hortus.protocol.policy import Policy
from hortus.simulation.demo import Alone
from hortus.simulation.plots import Plot, Points, describe, svg
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
        accuracy_plot=svg(accuracy),
        accuracy_label=describe(accuracy),
        epsilon_plot=svg(epsilon),
        epsilon_label=describe(epsilon),
        versions={name: version(name) for name in _LIBRARIES},
        command=f"hortus simulate plan.yaml --out {shlex.quote(f'{run.directory}-again')}",
        audit=f"hortus audit {shlex.quote(str(run.directory))}",
    )
    write_atomic(path, page.encode())
    return path


def _site(run: SimulatedRun, name: str) -> _Site:
    files = run.consortium.site(name)
    entries = _entries(files, name)
    after = {c.charge.round: c.epsilon_after for c in entries if c.charge.run == run.store.run}
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


def _entries(files: SiteFiles, name: str) -> list[Charged]:
    """Reads a ledger's charges; opening it checks its chain and last signature."""
    if not files.ledger.exists():
        return []
    identity = SiteIdentity.load(files.identity, name)
    with closing(Ledger.open(files.ledger, identity, time.time)) as ledger:
        return [entry.body for entry in ledger.entries() if isinstance(entry.body, Charged)]


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
) -> Plot:
    curves = {"this run": _accuracy(run)}
    if without_privacy is not None:
        curves["without privacy"] = _accuracy(without_privacy)
    reached = [(100 * s.metrics["accuracy"], s.site) for s in alone if "accuracy" in s.metrics]
    levels = {}
    if reached:
        value, site = max(reached)
        levels[f"best single site alone ({site})"] = value
    remark = "The plan names no evaluation records."
    return Plot("accuracy", "accuracy, %", curves, levels, remark)


def _accuracy(run: SimulatedRun) -> Points:
    return tuple(
        (record.round + 1, 100 * record.metrics["accuracy"])
        for record in run.store.rounds
        if "accuracy" in record.metrics
    )


def _epsilon_plot(sites: Sequence[_Site]) -> Plot:
    """Sites whose ε went the same way share a curve: it would hide all but one."""
    alike: dict[Points, list[str]] = {}
    for site in sites:
        finite = tuple(point for point in site.points if math.isfinite(point[1]))
        alike.setdefault(finite, []).append(site.name)
    curves = {_together(names): points for points, names in alike.items() if points}
    if any(site.spent is None for site in sites):
        return Plot("epsilon", "ε spent", curves, {}, "No noise, so no bound: ε is infinite.")
    levels = {
        f"budget {site.policy.budget.epsilon:.4g}": site.policy.budget.epsilon for site in sites
    }
    return Plot("epsilon", "ε spent", curves, levels, "No site has released anything.")


def _together(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"
