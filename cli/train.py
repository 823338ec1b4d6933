"""`hortus demo` and `hortus simulate`."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.display import RoundsDisplay, absences_table, terminal
from hortus.cli.export import tell_kept
from hortus.cli.settings import Settings, read_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import cells, columns, primary

if TYPE_CHECKING:
    from hortus.server.run.names import Place
    from hortus.server.run.records import RoundRecord
    from hortus.simulation.demo import Alone
    from hortus.simulation.simulate import SimulatedRun

PlanFile = Annotated[Path, typer.Argument(help="A plan file with a `simulation` section.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the run. Default: runs/NAME beside the plan, or runs/NAME-2 and so on if "
        "the earlier ones hold runs of another plan.",
    ),
]
_DIFFERENCES_SHOWN = 3
Force = Annotated[
    bool, typer.Option("--force", help="Start over: remove the run that the folder holds.")
]


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
        training = _Training(console, plan_path, force=force)
        private = training.simulate(plan, out / "private", title="with privacy")
        open_run, alone = training.baselines(plan, out)
        console.print(_comparison(plan, private, open_run, alone))
        _conclude(console, plan, private, out / "report.html", open_run, alone)
    console.print(
        f"Next, with another number of {plan_path}: hortus simulate {quote(str(plan_path))} --set privacy.epsilon=2"
    )


def simulate(
    plan: PlanFile,
    settings: Settings = None,
    out: Out = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Also train without privacy, and each site alone, to find out what limits the result.",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Run a plan with virtual sites on this machine, with the deployment's own code.

    Run it again with the same plan, settings and files to resume after the last secure sum.
    """
    needs = ("evaluation",) if _has_run(plan, out) else ("evaluation", "simulation")
    loaded = read_plan(plan, settings, needs=needs)

    from hortus.server.run.absences import absences

    console = terminal()
    training = _Training(console, plan, force=force)
    run = training.simulate(loaded, out, title=loaded.name)
    if away := absences(run.store.departures, run.store.rounds):
        console.print(absences_table(away))
    open_run, alone = None, list["Alone"]()
    if baselines:
        beside = baselines_folder(run.directory)
        open_run, alone = training.baselines(loaded, beside)
    _conclude(console, loaded, run, run.directory / "report.html", open_run, alone)


def _has_run(plan: Path, out: Path | None) -> bool:
    """Whether there may be a run to resume; its folder has copies of the sites' records."""
    folders = (plan.parent / "runs").glob("*") if out is None else [out]
    return any((folder / "consortium").is_dir() for folder in folders)


class _Training:
    """What a command trains, on one base model in memory.

    Args:
        console: Shows it.
        path: The plan's file.
        force: Start over where a folder holds a run.
    """

    def __init__(self, console: Console, path: Path, *, force: bool) -> None:
        from hortus.simulation.shared_workbench import SharedWorkbench

        self._console = console
        self._path = path
        self._force = force
        self._shared = SharedWorkbench()

    def simulate(self, plan: Plan, out: Path | None, *, title: str) -> "SimulatedRun":
        """Runs a plan."""
        from hortus.simulation.report import report_run
        from hortus.simulation.simulate import simulate

        with RoundsDisplay(self._console, title, plan.training.rounds) as display:

            def show(record: "RoundRecord", spent: Mapping[str, float]) -> None:
                display.add(record, spent)

            def tell(place: "Place") -> None:
                if out is None:
                    self._console.print(_place_in_words(place), soft_wrap=True)

            def stop(folder: Path) -> None:
                page = folder / "report.html"
                tell_kept(self._console, folder, lambda: report_run(folder, plan, page))

            return simulate(
                plan,
                self._path,
                out,
                show,
                display.say,
                force=self._force,
                on_place=tell,
                on_stop=stop,
                shared=self._shared,
            )

    def baselines(self, plan: Plan, out: Path) -> "tuple[SimulatedRun, list[Alone]]":
        """Trains without privacy, together and each site alone."""
        from hortus.simulation.alone import without_privacy
        from hortus.simulation.demo import forget_alone, train_each_alone

        if self._force:
            forget_alone(out)
        open_run = self.simulate(
            without_privacy(plan), out / "without-privacy", title="without privacy"
        )
        with self._console.status("each site alone, without privacy…"):
            alone = train_each_alone(
                plan,
                self._path.parent,
                out,
                lambda site: self._console.print(_line(site)),
                self._shared,
            )
        return open_run, alone


def _place_in_words(place: "Place") -> str:
    told = f"run             {place.directory}"
    if place.other is None:
        return told
    shown = list(place.differences[:_DIFFERENCES_SHOWN])
    if more := len(place.differences) - len(shown):
        shown.append(f"and {more} more")
    return f"{told}, since {place.other} holds another: {'; '.join(shown)}"


def baselines_folder(run: Path) -> Path:
    """Returns the folder, beside a run's, of the runs that it is compared with."""
    if not run.name or run.name == "..":
        run = run.resolve()
    return run.with_name(f"{run.name}-baselines")


def _conclude(
    console: Console,
    plan: Plan,
    run: "SimulatedRun",
    path: Path,
    open_run: "SimulatedRun | None",
    alone: "list[Alone]",
) -> None:
    """Writes the report, and says what limits the result and where everything is."""
    from hortus.simulation.report import report_run

    folder = None if open_run is None else open_run.directory
    found = report_run(run.directory, plan, path, folder, alone, run.cut)
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    for name, value in found.measures.items():
        table.add_row(name, value)
    console.print(table)
    for sentence in found.advice:
        console.print(sentence)
    console.print(f"adapter (PEFT)  {run.directory / 'adapter'}")
    console.print(f"ledgers         {run.consortium.directory / 'sites'}/*/ledger.sqlite")
    console.print(f"report          {path}")
    console.print(f"audit them      hortus audit {run.directory}")


def _line(alone: "Alone") -> str:
    metric = primary(alone.metrics)
    reached = "not measured" if metric is None else f"{metric.label} {metric.text}"
    return f"  {alone.site} alone: {reached}"


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
