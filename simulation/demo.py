"""The demo's folder: a synthetic corpus of our own, its plan, and a comparison of three models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from hortus.planning.prepare import pin
from hortus.protocol.plan import Plan
from hortus.protocol.policy import Budget
from hortus.runtime.errors import HortusError
from hortus.runtime.files import write_atomic
from hortus.runtime.metric import Metrics, best, primary
from hortus.server.evaluation import Evaluator
from hortus.simulation.alone import train_alone, without_privacy
from hortus.simulation.corpus import demo_sites, write_demo
from hortus.simulation.shared_workbench import SharedWorkbench
from hortus.simulation.site_records import read_site_records

_SEED = 7
_ALONE = "alone.json"
_EXAMPLE_SITES = 3
_EXAMPLE_DATA = "data"


@dataclass(frozen=True, slots=True)
class Alone:
    """What one site reached alone, without privacy."""

    site: str
    records: int
    metrics: Metrics


_RESULTS = TypeAdapter(list[Alone])


def write_demo_folder(out: Path) -> Path:
    """Writes data/ and plan.yaml unless they are there; returns the plan's path."""
    plan_path = out / "plan.yaml"
    if plan_path.exists():
        return plan_path
    sites = write_demo(out / "data", _SEED)
    listing = yaml.safe_dump({site: f"data/{site}.csv" for site in sites}, default_flow_style=True)
    text = _template().replace(
        "sites: {} # filled in by `hortus demo`", f"sites: {listing.strip()}"
    )
    write_atomic(plan_path, text.encode())
    return plan_path


def train_each_alone(
    plan: Plan,
    folder: Path,
    out: Path,
    on_site: Callable[[Alone], None],
    shared: SharedWorkbench,
) -> list[Alone]:
    """Trains every site alone, without privacy; results of an earlier start are kept.

    Args:
        plan: The federated plan; the steps are the same.
        folder: What a relative model path is relative to.
        out: Where alone.json is kept.
        on_site: Told of each site's result.
        shared: Where the model is kept.

    Raises:
        HortusError: The results of an earlier start cannot be read.
    """
    path = out / _ALONE
    results = _read_alone(path)
    known = {result.site for result in results}
    records = read_site_records(plan)
    if set(records) <= known:
        return results
    contract, model_path = pin(without_privacy(plan), folder)
    workbench = shared.of(contract, model_path)
    workbench.share_among(len(records))
    evaluator = Evaluator(workbench, plan.evaluation)
    for site, own in records.items():
        if site not in known:
            metrics = train_alone(contract, own, site, workbench, evaluator)
            results.append(Alone(site, len(own), metrics))
            write_atomic(path, _RESULTS.dump_json(results))
            on_site(results[-1])
    return results


def best_alone(alone: Sequence[Alone]) -> tuple[Alone, float] | None:
    """Returns the site that reached most alone, and its primary metric; None where nothing was measured."""
    found = best(alone, lambda site: site.metrics)
    metric = None if found is None else primary(found.metrics)
    if found is None or metric is None or metric.value is None:
        return None
    return found, metric.value


def _read_alone(path: Path) -> list[Alone]:
    try:
        return _RESULTS.validate_json(path.read_bytes()) if path.exists() else []
    except ValidationError as error:
        raise HortusError(
            f"this is not a list of results: {error.errors()[0]['msg']}",
            where=str(path),
            remedy="Remove it: every site is then trained alone again.",
        ) from error


def forget_alone(out: Path) -> None:
    """Lets every site be trained alone again."""
    (out / _ALONE).unlink(missing_ok=True)


def example(directory: Path, budget: Budget) -> tuple[dict[str, Path], str]:
    """Returns three sites' files of made-up records, within a consortium-to-be, and a plan for them.

    `write_example` writes the files.
    """
    fields = yaml.safe_load(_template())
    fields["name"] = "example"
    fields["task"]["labels"] = f"{_EXAMPLE_DATA}/labels.txt"
    fields["evaluation"] = f"{_EXAMPLE_DATA}/test.csv"
    # A site takes two of three to be honest, unless its policy says otherwise.
    fields["cohort"] = {"minimum": _EXAMPLE_SITES, "max_colluding": 1}
    fields["training"] |= {"rounds": 3, "steps_per_round": 4}
    fields["privacy"] |= {"epsilon": budget.epsilon, "delta": budget.delta}
    sites = demo_sites()[:_EXAMPLE_SITES]
    fields["simulation"] = {"sites": {site: f"{_EXAMPLE_DATA}/{site}.csv" for site in sites}}
    plan = "# An example plan.\n" + yaml.safe_dump(fields, sort_keys=False)
    return {site: (directory / _EXAMPLE_DATA / f"{site}.csv").resolve() for site in sites}, plan


def write_example(directory: Path) -> None:
    """Writes the records that `example` names."""
    write_demo(directory / _EXAMPLE_DATA, _SEED)


def _template() -> str:
    return (files("hortus.simulation") / "demo.yaml").read_text(encoding="utf-8")
