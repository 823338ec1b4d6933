"""`hortus simulate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hortus.cli.display import absences_table, terminal
from hortus.cli.options import Force, SimulatedPlan
from hortus.cli.settings import Settings, read_plan
from hortus.simulation.engines.kinds import with_engine

if TYPE_CHECKING:
    from hortus.simulation.demo import Alone

Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the run. Default: runs/NAME beside the plan, or runs/NAME-2 and so on if "
        "the earlier ones hold runs of another plan.",
    ),
]


_ReportTo = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER",
        help="Also report each round to tensorboard, mlflow or wandb, in files of the run's folder. Can be "
        "repeated.",
    ),
]


def simulate(
    plan: SimulatedPlan,
    settings: Settings = None,
    out: Out = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Also train without privacy, and each site alone, to find out what limits the result.",
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Simulation engine instead of the plan's: rehearsal (every message, key, mask and ledger, for up to "
            "some 100 sites) or in-process (the same steps and the same bits without them, for thousands).",
        ),
    ] = None,
    report_to: _ReportTo = None,
    force: Force = False,
) -> None:
    """Run a plan with virtual sites on this machine, with the deployment's own code.

    Run it again with the same plan, settings and files to resume after the last secure sum.
    """
    needs = ("evaluation",) if _has_run(plan, out) else ("evaluation", "simulation")
    loaded = with_engine(read_plan(plan, settings, needs=needs), engine)

    from hortus.cli.rehearsal import Training, baselines_folder, conclude
    from hortus.server.run.absences import absences
    from hortus.server.trackers.reporting import read_trackers, reporting_once_begun

    console = terminal()
    with reporting_once_begun(read_trackers(report_to or ())) as report:
        training = Training(console, plan, force=force, report=report)
        run = training.simulate(loaded, out, title=loaded.name)
    if away := absences(run.store.departures, run.store.rounds):
        console.print(absences_table(away))
    open_run, alone = None, list["Alone"]()
    if baselines:
        beside = baselines_folder(run.directory)
        open_run, alone = training.baselines(loaded, beside)
    conclude(console, loaded, run, run.directory / "report.html", open_run, alone)


def _has_run(plan: Path, out: Path | None) -> bool:
    """Whether there may be a run to resume; its folder has copies of the sites' records."""
    folders = (plan.parent / "runs").glob("*") if out is None else [out]
    return any((folder / "consortium").is_dir() for folder in folders)
