"""`hortus demo` and `hortus simulate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.display import RoundsDisplay, absences_table, percent, terminal
from hortus.protocol.plan import Plan
from hortus.protocol.plan_file import load_plan

if TYPE_CHECKING:
    from hortus.server.run_records import RoundRecord
    from hortus.simulation.demo import Alone
    from hortus.simulation.simulate import SimulatedRun

PlanFile = Annotated[Path, typer.Argument(help="A plan file with a `simulation` section.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the run. Default: runs/NAME beside the plan.")
]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/demo"),
) -> None:
    """Fine-tune a real transformer at six hospitals and banks, privately, and compare.

    Uses a synthetic corpus made here. Takes a few minutes; started again, it goes on where it was.
    """
    from hortus.simulation.alone import without_privacy
    from hortus.simulation.demo import train_each_alone, write_demo_folder
    from hortus.simulation.report import report_run

    console = terminal()
    plan_path = write_demo_folder(out)
    plan = load_plan(plan_path)
    private = _simulate(console, plan, plan_path, out / "private", "with privacy")
    open_run = _simulate(
        console, without_privacy(plan), plan_path, out / "without-privacy", "without privacy"
    )
    with console.status("each site alone, without privacy…"):
        alone = train_each_alone(
            plan, plan_path.parent, out, lambda site: console.print(_line(site))
        )
    report = report_run(private, plan, out / "report.html", without_privacy=open_run, alone=alone)
    console.print(_comparison(plan, private, open_run, alone))
    _tell_where(console, private, report)
    console.print(f"Next: change a number in {plan_path} and run: hortus simulate {plan_path}")


def simulate(plan: PlanFile, out: Out = None) -> None:
    """Run a plan with virtual sites on this machine, by the deployment's own code.

    Started again with the same plan and folder, it goes on after the last finished round.
    """
    loaded = load_plan(plan)  # before what takes seconds to import: a slip is answered at once

    from hortus.server.absences import absences
    from hortus.simulation.report import report_run

    console = terminal()
    folder = out or plan.parent / "runs" / loaded.name
    run = _simulate(console, loaded, plan, folder, loaded.name)
    report = report_run(run, loaded, folder / "report.html")
    if away := absences(run.store.departures, run.store.rounds):
        console.print(absences_table(away))
    _tell_where(console, run, report)


def _simulate(console: Console, plan: Plan, path: Path, out: Path, title: str) -> "SimulatedRun":
    from hortus.simulation.simulate import simulate

    with RoundsDisplay(console, title, plan.training.rounds) as display:

        def show(record: "RoundRecord", spent: Mapping[str, float]) -> None:
            display.add(record, spent)

        return simulate(plan, path.resolve().parent, out, show, display.say)


def _line(alone: "Alone") -> str:
    return f"  {alone.site} alone: {percent(alone.metrics.get('accuracy'))}"


def _comparison(
    plan: Plan, private: "SimulatedRun", open_run: "SimulatedRun", alone: "list[Alone]"
) -> Table:
    best = max(alone, key=lambda site: site.metrics.get("accuracy", 0.0))
    claim = private.store.rounds[-1].epsilon
    bound = "no bound" if claim is None else f"ε = {claim:.2f}, δ = {plan.privacy.delta:g}"
    table = Table("model", "accuracy", "macro F1", f"bound for one {plan.privacy.unit}", box=None)
    table.caption = "No site alone has records of every class: that is much of what they gain."
    for name, metrics, promise in (
        (f"best single site alone ({best.site})", best.metrics, "no bound"),
        ("federated, private", private.store.rounds[-1].metrics, bound),
        ("federated, without privacy", open_run.store.rounds[-1].metrics, "no bound"),
    ):
        table.add_row(
            name, percent(metrics.get("accuracy")), percent(metrics.get("macro_f1")), promise
        )
    return table


def _tell_where(console: Console, run: "SimulatedRun", report: Path) -> None:
    console.print(f"adapter (PEFT)  {run.directory / 'adapter'}")
    console.print(f"ledgers         {run.consortium.directory / 'sites'}/*/ledger.sqlite")
    console.print(f"report          {report}")
    console.print(f"audit them      hortus audit {run.directory}")
