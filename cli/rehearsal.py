"""What `hortus demo` and `hortus simulate` share: trainings on this machine, and what they conclude."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from hortus.cli.display import RoundsDisplay
from hortus.cli.export import tell_kept
from hortus.protocol.plan import Plan
from hortus.runtime.metric import primary

if TYPE_CHECKING:
    from hortus.privacy.gradients.workbench import Workbench
    from hortus.server.run.names import Place
    from hortus.server.run.records import RoundRecord
    from hortus.simulation.demo import Alone
    from hortus.simulation.simulate import SimulatedRun

_DIFFERENCES_SHOWN = 3


class Training:
    """What a command trains, on one base model in memory.

    Args:
        console: Shows it.
        path: The plan's file.
        force: Start over where a folder holds a run.
        report: Told of each round of the run in a folder.
    """

    def __init__(
        self,
        console: Console,
        path: Path,
        *,
        force: bool,
        report: "Callable[[Path, RoundRecord], None]" = lambda *_: None,
    ) -> None:
        from hortus.simulation.shared_workbench import SharedWorkbench

        self._console = console
        self._path = path
        self._force = force
        self._report = report
        self._shared = SharedWorkbench()

    def simulate(self, plan: Plan, out: Path | None, *, title: str) -> "SimulatedRun":
        """Runs a plan."""
        from hortus.simulation.report import report_run
        from hortus.simulation.simulate import simulate

        with RoundsDisplay(self._console, title, plan.training.rounds) as display:
            folders: list[Path] = []

            def show(record: "RoundRecord", spent: Mapping[str, float]) -> None:
                display.add(record, spent)
                self._report(folders[-1], record)

            def tell(place: "Place") -> None:
                folders.append(place.directory)
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

    def warm(self, run: "SimulatedRun") -> "Workbench":
        """Returns the base model that a run was trained on, in memory."""
        from hortus.learning.models.folder import resolve_model

        return self._shared.of(run.contract, resolve_model(run.contract.model, self._path.parent))

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


def conclude(
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
    console.print(f"report          {path}")
    if run.has_ledgers:
        console.print(f"ledgers         {run.consortium.directory / 'sites'}/*/ledger.sqlite")
        console.print(f"audit them      hortus audit {run.directory}")
    else:
        console.print("ε               from the accountant; no ledger was charged", soft_wrap=True)


def _line(alone: "Alone") -> str:
    metric = primary(alone.metrics)
    reached = "not measured" if metric is None else f"{metric.label} {metric.text}"
    return f"  {alone.site} alone: {reached}"
