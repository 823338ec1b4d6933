"""`hortus audit attack`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hortus.cli.display import percent, terminal
from hortus.cli.settings import Settings, read_plan
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from hortus.simulation.attack.verdict import Verdict


def attack(
    plan: Annotated[Path, typer.Argument(help="A plan file with a `simulation` section.")],
    settings: Settings = None,
    site: Annotated[
        str | None, typer.Option(help="Where canaries are planted. Default: the first site.")
    ] = None,
    trainings: Annotated[
        int, typer.Option(min=3, help="Trainings; each has all others as shadow models.")
    ] = 9,
    canaries: Annotated[
        int | None, typer.Option(help="Default: half of the site's records, at most 200.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the lower bound on ε.")] = 0.95,
    out: Annotated[
        Path | None, typer.Option(help="Folder. Default: runs/NAME-attack beside the plan.")
    ] = None,
) -> None:
    """Attack a plan's own pipeline in simulation, and hold what leaks against what is claimed.

    Made-up records are planted at a site by lot; an attacker who sees every sum, and one who has
    the finished model, guess which. Trains the plan several times; started again, it goes on after
    the last finished training. Exit code 1 if more leaks than the plan claims.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"{confidence:g} is not between 0 and 1", where="--confidence")
    loaded = read_plan(plan, settings, needs=("simulation",))

    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    from hortus.simulation.attack.pipeline import Setting
    from hortus.simulation.attack.pipeline import attack as run_attack
    from hortus.simulation.attack.verdict import judge, write_page

    console = terminal()
    folder = out or plan.parent / "runs" / f"{loaded.name}-attack"
    with Progress(
        TextColumn("training with canaries", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
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
        f"ε claimed {verdict.claim:.3f}, shown by {verdict.bound.correct} right of "
        f"{verdict.bound.guesses} guesses: at least {verdict.bound.epsilon:.3f}. Area under the "
        f"curve {verdict.observer.area:.3f} and {verdict.shadow.area:.3f}."
    )
    return table
