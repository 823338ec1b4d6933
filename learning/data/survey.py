"""What a file of records is like, for the operator of the site whose it is: counts and lengths, and no text."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hortus.learning.data.kept import keep
from hortus.learning.data.records import Reads, RowCodec, canonical_row
from hortus.learning.data.rows import read_rows
from hortus.learning.data.values import as_id, is_missing
from hortus.learning.data.view import View
from hortus.runtime.errors import UsageError

MOST_VALUES = 50  # different ones of a column that are counted
_FAULTS_KEPT = 5
_HASH_BYTES = 16
_KINDS = {
    str: "text",
    bool: "truth value",
    int: "whole number",
    float: "number",
    list: "list",
    dict: "object",
    bytes: "bytes",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a file.

    Attributes:
        name: As the file has it.
        kinds: What its cells are, by how many of them.
        missing: Cells that are empty, or not there.
        different: How many different values it has; None for more than `MOST_VALUES`.
        mean_characters: Of its texts.
        most_characters: Of the longest of them.
    """

    name: str
    kinds: Mapping[str, int]
    missing: int
    different: int | None
    mean_characters: float
    most_characters: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A file.

    Attributes:
        rows: How many it has.
        duplicates: Rows that are the same as an earlier one, in every column.
        columns: In the order of the file.
    """

    rows: int
    duplicates: int
    columns: tuple[Column, ...]


@dataclass(slots=True)
class _Tally:
    kinds: Counter[str] = field(default_factory=Counter)
    values: set[Any] | None = field(default_factory=set)
    characters: int = 0
    longest: int = 0

    def add(self, cell: Any) -> None:  # noqa: ANN401 - whatever a file holds
        if is_missing(cell):
            return
        self.kinds[_KINDS.get(type(cell), type(cell).__name__)] += 1
        if isinstance(cell, str):
            self.characters += len(cell)
            self.longest = max(self.longest, len(cell))
        if self.values is not None:
            self.values.add(hashlib.sha256(repr(cell).encode(errors="replace")).digest())
            if len(self.values) > MOST_VALUES:
                self.values = None

    def column(self, name: str, rows: int) -> Column:
        texts = self.kinds["text"]
        return Column(
            name,
            dict(self.kinds.most_common()),
            rows - self.kinds.total(),
            None if self.values is None else len(self.values),
            self.characters / texts if texts else 0.0,
            self.longest,
        )


def survey(path: Path) -> Survey:
    """Reads a file once.

    Raises:
        UsageError: It cannot be read, or holds no record.
    """
    tallies: dict[str, _Tally] = {}
    seen: set[bytes] = set()
    rows = 0
    for _, row in read_rows(path, ()):
        rows += 1
        seen.add(hashlib.sha256(canonical_row(row)).digest()[:_HASH_BYTES])
        for name, cell in row.items():
            tallies.setdefault(name, _Tally()).add(cell)
    if not rows:
        raise UsageError("there are no records in it", where=str(path))
    columns = tuple(tally.column(name, rows) for name, tally in tallies.items())
    return Survey(rows, rows - len(seen), columns)


@dataclass(frozen=True, slots=True)
class Fitting:
    """The records of a file that a task can read.

    Attributes:
        values: What it makes of them.
        units: Whose each is; empty where each is a unit of its own.
        faults: What is wrong with the first of the others.
        unfit: How many others there are.
    """

    values: Sequence[Any]
    units: list[str]
    faults: tuple[UsageError, ...]
    unfit: int


def read_fitting(path: Path, task: Reads, unit_column: str | None, view: View) -> Fitting:
    """Reads what fits a task, and notes what does not, instead of ending at the first.

    Raises:
        UsageError: The file cannot be read at all, or lacks a column.
    """
    names = [*task.columns, *([unit_column] if unit_column else [])]
    units: list[str] = []
    faults: list[UsageError] = []
    unfit = 0

    def read() -> Iterator[Any]:
        nonlocal unfit
        for place, row in read_rows(path, view.sources(names)):
            where, seen = f"{path}, {place}", view.of(row, task.texts)
            try:
                value = task.read(seen, where)
                unit = unit_column and as_id(seen[unit_column], f"{where}, column {unit_column!r}")
            except UsageError as error:
                unfit += 1
                if len(faults) < _FAULTS_KEPT:
                    faults.append(view.explained(error))
                continue
            if unit is not None:
                units.append(unit)
            yield value

    try:
        values = keep(read(), RowCodec(task))
    except UsageError as error:
        raise view.explained(error) from error
    return Fitting(values, units, tuple(faults), unfit)


def counted(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns how often each word of some columns comes, most first: of lists, each of theirs; numbers are none."""
    found: dict[str, Counter[str]] = {name: Counter() for name in names}
    for row in rows:
        for name, counts in found.items():
            cell = row.get(name)
            words = cell if isinstance(cell, list) else [cell]
            counts.update(word for word in words if isinstance(word, str))
    return {name: dict(counts.most_common()) for name, counts in found.items() if counts}
