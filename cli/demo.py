"""`hortus demo`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hortus.cli.display import terminal
from hortus.cli.options import Force
from hortus.cli.rehearsal import Training, conclude
from hortus.cli.settings import Settings, read_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import cells, columns

if TYPE_CHECKING:
    from hortus.simulation.demo import Alone
    from hortus.simulation.simulate import SimulatedRun


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/demo"),
    settings: Settings = None,
    force: Force = False,
) -> None:
    """Fine-tune a real transformer at six hospitals and banks, privately, and compare.

    Uses a synthetic corpus made here. Takes a few minutes; to resume, run the same command again.
    """
    from hortus.server.run.folder import claimed
    from hortus.simulation.demo import write_demo_folder

    console = terminal()
    with claimed(out):
        plan_path = write_demo_folder(out)
        plan = read_plan(plan_path, settings)
        training = Training(console, plan_path, force=force)
        private = training.simulate(plan, out / "private", title="with privacy")
        open_run, alone = training.baselines(plan, out)
        console.print(_comparison(plan, private, open_run, alone))
        conclude(console, plan, private, out / "report.html", open_run, alone)
    console.print(
        f"Next, with another number of {plan_path}: hortus simulate {quote(str(plan_path))} --set privacy.epsilon=2"
    )


def _comparison(
    plan: Plan, private: "SimulatedRun", open_run: "SimulatedRun", alone: "list[Alone]"
) -> Table:
    from hortus.simulation.demo import best_alone

    claim = private.store.rounds[-1].epsilon
    bound = "no bound" if claim is None else f"ε = {claim:.2f}, δ = {plan.privacy.delta:g}"
    rows = [
        ("federated, private", private.store.rounds[-1].metrics, bound),
        ("federated, without privacy", open_run.store.rounds[-1].metrics, "no bound"),
    ]
    if (single := best_alone(alone)) is not None:
        site, _ = single
        rows.insert(0, (f"best single site alone ({site.site})", site.metrics, "no bound"))
    measured = columns(metrics for _, metrics, _ in rows)
    names = [metric.column for metric in measured]
    table = Table("model", *names, f"bound for one {plan.privacy.unit}", box=None)
    table.caption = "No site alone has records of every class, which explains much of the gain."
    for name, metrics, promise in rows:
        table.add_row(name, *cells(metrics, measured), promise)
    return table
