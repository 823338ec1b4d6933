"""The rounds of an audited ledger as tables that fit a terminal of 80 columns."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

if TYPE_CHECKING:
    from hortus.privacy.audit_rounds import RoundRow

Column = tuple[str, "Callable[[RoundRow], str]"]

# Said once above the table where it is the same in all rows, as it mostly is.
_FOLDED: tuple[Column, ...] = (
    ("protects one", lambda row: row.unit),
    ("noise", lambda row: f"{row.mechanism}, {row.mode}"),
    ("q", lambda row: f"{row.sampling_rate:g}"),
    ("σ/C", lambda row: f"{row.noise_multiplier:.4f}"),
    ("C", lambda row: f"{row.clipping_norm:g}"),
    ("δ", lambda row: f"{row.delta:g}"),
    ("limit", lambda row: f"{row.limit:g}"),
)
_OF_A_ROUND: tuple[Column, ...] = (
    ("round", lambda row: str(row.round + 1)),
    ("releases", lambda row: str(row.releases)),
    ("not sent", lambda row: str(row.unsent)),
    ("refused", lambda row: str(row.refusals)),
    ("ε of the round", lambda row: f"{row.epsilon_alone:.3f}"),
    ("ε so far", lambda row: f"{row.epsilon_so_far:.3f}"),
    ("ε left", lambda row: f"{row.left:.3f}"),
)


def round_tables(rows: "Sequence[RoundRow]") -> Iterator[RenderableType]:
    """Yields a heading and a table for each run and dataset, in order."""
    for (run, dataset), group in groupby(rows, lambda row: (row.run, row.dataset)):
        same = list(group)
        folded = [(name, cell) for name, cell in _FOLDED if len({*map(cell, same)}) == 1]
        varied = [column for column in _FOLDED if column not in folded]
        told = [f"run {run[:16]}", f"dataset {dataset[:16]}"]
        yield ", ".join(told + [f"{name} {cell(same[0])}" for name, cell in folded])
        yield _table([_OF_A_ROUND[0], *varied, *_OF_A_ROUND[1:]], same)


def _table(columns: Sequence[Column], rows: "Sequence[RoundRow]") -> Table:
    table = Table(box=None, pad_edge=False)
    for name, _ in columns:
        # A number that does not fit goes on in the next line: cut short it would be another.
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table
