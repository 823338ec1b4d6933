"""The rounds of an audited ledger as tables that fit a terminal of 80 columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from hortus.runtime.moments import moment

if TYPE_CHECKING:
    from hortus.privacy.audit.rounds import RoundRow

Column = tuple[str, "Callable[[RoundRow], str]"]

# Shown once above the table if it is the same in all rows, as it mostly is.
FOLDED: tuple[Column, ...] = (
    ("protects one", lambda row: row.unit),
    ("noise", lambda row: f"{row.mechanism}, {row.mode}"),
    ("q", lambda row: f"{row.sampling_rate:g}"),
    ("σ/C", lambda row: f"{row.noise_multiplier:.4f}"),
    ("C", lambda row: f"{row.clipping_norm:g}"),
    ("δ", lambda row: f"{row.delta:g}"),
    ("limit", lambda row: f"{row.limit:g}"),
)
OF_A_ROUND: tuple[Column, ...] = (
    ("round", lambda row: str(row.round + 1)),
    ("releases", lambda row: str(row.releases)),
    ("not sent", lambda row: str(row.unsent)),
    ("refused", lambda row: str(row.refusals)),
    ("ε of the round", lambda row: f"{row.epsilon_alone:.3f}"),
    ("ε so far", lambda row: f"{row.epsilon_so_far:.3f}"),
    ("ε left", lambda row: f"{row.left:.3f}"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """The rounds of a run that were charged to one account.

    Attributes:
        rows: In order.
        same: Values that all rows share, by name.
        varied: Columns that are not.
    """

    rows: "Sequence[RoundRow]"
    same: tuple[tuple[str, str], ...]
    varied: tuple[Column, ...]


def grouped_rounds(rows: "Sequence[RoundRow]") -> Iterator[Group]:
    """Yields the rounds of each run and account, in order."""
    for _, group in groupby(rows, lambda row: (row.run, row.dataset)):
        own = list(group)
        same = [(name, cell) for name, cell in FOLDED if len({*map(cell, own)}) == 1]
        varied = tuple(column for column in FOLDED if column not in same)
        yield Group(own, tuple((name, cell(own[0])) for name, cell in same), varied)


def round_tables(rows: "Sequence[RoundRow]", names: Mapping[str, str]) -> Iterator[RenderableType]:
    """Yields a heading and a table for each run and dataset, in order; `names` are the plans'."""
    for group in grouped_rounds(rows):
        first, last = group.rows[0], group.rows[-1]
        told = [f"run {first.run[:16]}", f"dataset {first.dataset[:16]}"]
        if first.plan in names:
            told.insert(0, names[first.plan])
        told.append(f"{moment(first.began)} to {moment(last.ended)}")
        yield ", ".join(told + [f"{name} {value}" for name, value in group.same])
        yield _table([OF_A_ROUND[0], *group.varied, *OF_A_ROUND[1:]], group.rows)


def _table(columns: Sequence[Column], rows: "Sequence[RoundRow]") -> Table:
    table = Table(box=None, pad_edge=False)
    for name, _ in columns:
        # A number that does not fit continues on the next line: truncated, it would be another number.
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table
