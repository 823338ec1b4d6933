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

    from hortus.protocol.plan import Plan
    from hortus.simulation.attack.pipeline import OnStep
    from hortus.simulation.attack.secrets import Secrets
    from hortus.simulation.attack.verdict import Verdict

_CODES = 3  # for each number of records, if nothing else is asked for

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
_Secrets = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Made-up codes to plant for each number of records, if the task writes texts: does the "
        "trained model give them away? Takes two more trainings, one of them without privacy. Default: 3; 0 for none.",
    ),
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
    secrets: _Secrets = None,
    confidence: _Confidence = 0.95,
    out: _Out = None,
) -> None:
    """Attack a plan's own pipeline in simulation, and compare what leaks with what the plan claims.

    Plants made-up records at a site by lot. An attacker who sees every sum and another who has
    the finished model guess which records were used. If the task writes texts, it also plants made-up codes and
    asks the trained model for them. Trains the plan several times; to resume after an
    interruption, run the same command again. Exit code 1 if more leaks than the plan claims.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"{confidence:g} is not between 0 and 1", where="--confidence")
    loaded = read_plan(plan, settings, needs=("simulation",))

    from hortus.simulation.attack.pipeline import Setting
    from hortus.simulation.attack.pipeline import attack as run_attack
    from hortus.simulation.attack.secrets import find_secrets
    from hortus.simulation.attack.verdict import judge, write_page

    codes = _codes(loaded, secrets)
    console = terminal()
    folder = out or plan.parent / "runs" / f"{loaded.name}-attack"
    home, found = plan.resolve().parent, None
    with _progress(console) as progress:
        setting = Setting(trainings, site, canaries)
        seen = run_attack(loaded, home, folder, setting, _shown(progress, "canaries"))
        if codes:
            told = _shown(progress, "codes")
            found = find_secrets(loaded, home, folder, site, codes, told)
    with console.status("weighing…"):
        verdict = judge(seen, confidence)
        write_page(verdict, folder / "attack.html", found)
    console.print(_table(verdict))
    if found:
        console.print(_codes_table(found))
    console.print(f"report  {folder / 'attack.html'}")
    console.print()
    console.print(verdict.sentence, style="bold red" if verdict.exposed else "bold")
    if found:
        console.print(found.sentence, style="bold")
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
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _codes(plan: "Plan", wanted: int | None) -> int:
    """Returns how many codes are planted for each number of records."""
    from hortus.learning.tasks.kinds import TASKS

    writes = TASKS.parse(plan.task).secret("", "") is not None
    if wanted and not writes:
        raise UsageError(
            f"models of the task {plan.task.kind!r} write no texts, so they give no codes away",
            where="--secrets",
            remedy="Leave it out.",
        )
    return (_CODES if writes else 0) if wanted is None else wanted


def _shown(progress: "Progress", what: str) -> "OnStep":
    task = progress.add_task(f"training with {what}", total=None)
    return lambda done, steps: progress.update(task, completed=done, total=steps)


def _codes_table(found: "Secrets") -> Table:
    table = Table(box=None, pad_edge=False, title="codes given away", title_justify="left")
    for name in ("records", "base model", "this plan", "no privacy", "recited", "no privacy"):
        table.add_column(name, justify="right")
    for copies in found.base:
        rows = (found.base[copies], found.private[copies], found.plain[copies])
        table.add_row(
            str(copies),
            *(f"{one.exposure:.1f} bits" for one in rows),
            *(f"{one.recited} of {found.each}" for one in rows[1:]),
        )
    return table


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
