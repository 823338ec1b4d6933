"""`hortus audit attack`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.display import terminal
from hortus.cli.options import SimulatedPlan
from hortus.cli.settings import Settings, read_plan
from hortus.pages.numbers import percent
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from hortus.simulation.attack.verdict import Verdict


_Site = Annotated[
    str | None, typer.Option(help="Site at which to plant canaries. Default: the first site.")
]
_Trainings = Annotated[
    int, typer.Option(min=3, help="Number of trainings; each uses all the others as shadow models.")
]
_Canaries = Annotated[
    int | None,
    typer.Option(help="Number of canaries. Default: half of the site's records, at most 200."),
]
_Confidence = Annotated[float, typer.Option(help="Confidence of the lower bound on ε.")]
_Out = Annotated[
    Path | None, typer.Option(help="Output folder. Default: runs/NAME-attack beside the plan.")
]


def attack(
    plan: SimulatedPlan,
    settings: Settings = None,
    site: _Site = None,
    trainings: _Trainings = 9,
    canaries: _Canaries = None,
    confidence: _Confidence = 0.95,
    out: _Out = None,
) -> None:
    """Attack a plan's own pipeline in simulation, and compare what leaks with what the plan claims.

    Plants made-up records at a site by lot. An attacker who sees every sum and another who has
    the finished model guess which records were used. Trains the plan several times; to resume after an
    interruption, run the same command again. Exit code 1 if more leaks than the plan claims.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"{confidence:g} is not between 0 and 1", where="--confidence")
    loaded = read_plan(plan, settings, needs=("simulation",))

    from hortus.simulation.attack.pipeline import Setting
    from hortus.simulation.attack.pipeline import attack as run_attack
    from hortus.simulation.attack.verdict import judge, write_page

    console = terminal()
    folder = out or plan.parent / "runs" / f"{loaded.name}-attack"
    with _progress(console) as progress:
        task = progress.add_task("steps", total=None)
        seen = run_attack(
            loaded,
            plan.resolve().parent,
            folder,
            Setting(trainings, site, canaries),
            lambda done, steps: progress.update(task, completed=done, total=steps),
        )
    with console.status("weighing…"):
        verdict = judge(seen, confidence)
        write_page(verdict, folder / "attack.html")
    console.print(_table(verdict))
    console.print(f"report  {folder / 'attack.html'}")
    console.print()
    console.print(verdict.sentence, style="bold red" if verdict.exposed else "bold")
    if verdict.exposed:
        raise typer.Exit(1)


def _progress(console: Console) -> "Progress":
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("training with canaries", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _table(verdict: "Verdict") -> Table:
    table = Table(box=None, pad_edge=False, title="present canaries found", title_justify="left")
    for name in ("false alarms", "who sees every sum", "finished model", "allowed", "by (ε, δ)"):
        table.add_column(name, justify="right")
    for one in verdict.detections:
        table.add_row(
            percent(one.rate),
            percent(one.observer),
            percent(one.shadow),
            percent(one.bound),
            percent(one.point),
        )
    table.caption_justify = "left"
    table.caption = (
        f"ε claimed {verdict.claim:.3f}, shown by {verdict.bound.correct} correct of "
        f"{verdict.bound.guesses} guesses: at least {verdict.bound.epsilon:.3f}. Area under the "
        f"curve {verdict.observer.area:.3f} and {verdict.shadow.area:.3f}."
    )
    return table
