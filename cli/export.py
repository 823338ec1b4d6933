"""`hortus export`, and what a command says about a run that it could not finish."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hortus.cli.display import terminal
from hortus.runtime.errors import HortusError


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder, finished or not.")],
    which: Annotated[
        str, typer.Option("--round", help="last, best (by the plan's evaluation), or a number.")
    ] = "last",
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder. Default: adapter-round-N in the run's folder."),
    ] = None,
) -> None:
    """Write the adapter of a round in PEFT's format, from any run, however it ended.

    A run keeps its last two rounds and its best one.
    """
    from hortus.server.run.results import export as export_round

    record, written = export_round(run, which, out)
    console = terminal()
    metric = record.primary
    reached = "" if metric is None else f", {metric.label} {metric.text}"
    cost = "no privacy" if record.epsilon is None else f"ε = {record.epsilon:.4g}"
    console.print(f"{written}: the adapter after round {record.round + 1}, {cost}{reached}")


def tell_kept(console: Console, run: Path, write_report: Callable[[], object]) -> None:
    """Writes the report of a run that stops early and lists what is kept; the error follows."""
    from hortus.server.run.records import read_run
    from hortus.server.run.results import LAST

    try:
        rounds = read_run(run).rounds
        if not rounds:
            return
        write_report()
    except (HortusError, OSError) as error:
        console.print(f"no report could be written: {error}")
        return
    console.print(f"kept after round {rounds[-1].round + 1}:")
    console.print(f"  adapter (PEFT)  {run / LAST}")
    console.print(f"  report          {run / 'report.html'}")
