"""The terminal, and what a person sees on it during and after a run.

Every command prints through `terminal()` or `echo()`: plans, site names, reasons, file names and
ledgers contain other people's words, which are cleaned here, so that no command has to do it.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hortus.runtime.errors import printable
from hortus.runtime.metric import Metrics, cells, columns

if TYPE_CHECKING:
    from hortus.server.run.absences import Absence
    from hortus.server.run.records import RoundRecord

_SPENT = "ε spent, per site"
_ROWS_SHOWN = 12
_ROWS_SHOWN_UPRIGHT = 2
_UNBOUNDED = 10_000  # columns


class _Terminal(Console):
    """A console that obeys no text: styles come only from our code, as objects."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - rich's own options
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - rich's own options
        """Turns a text into one line; our own code prints several lines separately."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Cleans whatever reaches the terminal other than as plain text."""
        options = options or self.options
        if isinstance(renderable, Table):
            renderable = _fitted(self, options, renderable)
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)


def _fitted(console: Console, options: ConsoleOptions, table: Table) -> Table:
    """Returns a table that loses no digit and breaks no number, however narrow the terminal is."""
    return _upright(table) if _is_too_wide(console, options, table) else table


def _is_too_wide(console: Console, options: ConsoleOptions, table: Table) -> bool:
    """Whether a table does not fit without breaking a number."""
    for column in table.columns:
        column.overflow = "fold"
        if all(isinstance(cell, str | Text) and _is_whole(str(cell)) for cell in column.cells):
            column.no_wrap = True
    if not table.show_header or not table.row_count:
        return False
    needed = Measurement.get(console, options.update(width=_UNBOUNDED), table).minimum
    return needed > options.max_width


def _is_whole(cell: str) -> bool:
    """Whether a cell is a word, or a number and its sign, which are not to be parted."""
    return " " not in cell.removesuffix(" %")


def _upright(table: Table) -> Table:
    """Transposes a table for a narrow terminal: a line per cell, with its column's name."""
    turned = Table(
        box=None,
        show_header=False,
        pad_edge=False,
        title=table.title,
        title_justify=table.title_justify,
        caption=table.caption,
        caption_justify="left",
    )
    turned.add_column(no_wrap=True)
    turned.add_column(overflow="fold")
    rows = zip(*(column.cells for column in table.columns), strict=True)
    for number, row in enumerate(rows):
        if number:
            turned.add_row("", "")
        for column, cell in zip(table.columns, row, strict=True):
            turned.add_row(column.header, cell)
    return turned


def terminal(**options: Any) -> Console:  # noqa: ANN401 - rich's own options
    """Returns a console for output, or with `stderr=True` for errors, that obeys no text."""
    return _Terminal(**options)


def echo(document: str) -> None:
    """Prints a document to standard output unchanged, line by line, so that it can go to a file."""
    for line in document.split("\n"):
        typer.echo(printable(line))


def printable_lines(text: str) -> str:
    """Returns a text of several lines that commands nothing on a terminal."""
    return "\n".join(map(printable, text.split("\n")))


def echo_json(value: object) -> None:
    """Prints JSON, in ASCII, for programs."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def echo_json_line(value: object) -> None:
    """Prints JSON in one line, in ASCII, for programs."""
    typer.echo(json.dumps(value, allow_nan=False))


def echo_cells(cells: Iterable[str]) -> None:
    """Prints a row in one line, its cells separated by tabs."""
    typer.echo("\t".join(map(printable, cells)))


class RoundsDisplay:
    """A live progress bar and table of rounds; one line per round if output is not a terminal.

    Args:
        console: Where to draw.
        title: What is running.
        rounds: Number of rounds of the run.
        finished: Rounds finished by an earlier start.
    """

    def __init__(
        self, console: Console, title: str, rounds: int, finished: Sequence["RoundRecord"] = ()
    ) -> None:
        from rich.live import Live  # takes a while, as does the next
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._console, self._title, self._rounds = console, title, rounds
        self._records = [(record, "") for record in finished]
        self._stage = ""
        self._progress = Progress(
            TextColumn(title, markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self._task = self._progress.add_task(title, total=rounds, completed=len(self._records))
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._stage = ""
            self._live.refresh()
            self._live.__exit__(kind, error, trace)

    def add(self, record: "RoundRecord", spent: Mapping[str, float]) -> None:
        """Shows a finished round; `spent` is ε by site, as their own ledgers have it."""
        self._records.append((record, _range(spent.values()) if spent else ""))
        self._progress.update(self._task, completed=record.round + 1)
        if not self._console.is_terminal:
            line = f"{self._title}, of {self._rounds}: {_line(*self._records[-1])}"
            self._console.print(line, soft_wrap=True)

    def say(self, stage: str) -> None:
        """Shows what happens now; the next text replaces it."""
        self._stage = stage

    def _render(self) -> Group:
        table = self._table(_ROWS_SHOWN)
        if _is_too_wide(self._console, self._console.options, table):
            table = self._table(_ROWS_SHOWN_UPRIGHT)
        if not self._stage:
            return Group(table, self._progress)
        return Group(table, self._progress, Text(printable(self._stage), style="dim"))

    def _table(self, rows: int) -> Table:
        """Returns this many of the last rounds."""
        table = Table(box=None, pad_edge=False)
        measured = columns(record.metrics for record, _ in self._records)
        for name in _names(measured):
            table.add_column(name, justify="right")
        for record, spent in self._records[-rows:]:
            table.add_row(*_cells(record, spent, measured))
        return table


def _names(measured: Metrics) -> tuple[str, ...]:
    return ("round", *(metric.column for metric in measured), _SPENT, "sites")


def _cells(record: "RoundRecord", spent: str, measured: Metrics) -> tuple[str, ...]:
    reached = cells(record.metrics, measured)
    return (str(record.round + 1), *reached, _claimed(record, spent), str(len(record.sites)))


def _line(record: "RoundRecord", spent: str) -> str:
    reached = [f"{metric.label} {metric.text}" for metric in columns([record.metrics])]
    cost = f"{_SPENT} {_claimed(record, spent)}"
    return ", ".join([f"round {record.round + 1}", *reached, cost, f"sites {len(record.sites)}"])


def _claimed(record: "RoundRecord", spent: str) -> str:
    return "∞" if record.epsilon is None else spent or f"{record.epsilon:.3f}"


def absences_table(absences: Sequence["Absence"]) -> Table:
    """A table of the sites that refused or left, why, and whether they came back."""
    table = Table("from round", "site", "why", "now", title="Sites that were away", box=None)
    for one in absences:
        table.add_row(str(one.since), one.site, one.reason, one.in_words)
    return table


def _range(values: Collection[float]) -> str:
    low, high = min(values), max(values)
    return f"{high:.3f}" if high - low < 5e-4 else f"{low:.3f} to {high:.3f}"
