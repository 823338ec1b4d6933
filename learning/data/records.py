"""Records of a file, read as a plan's task reads them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hortus.learning.data.kept import keep
from hortus.learning.data.rows import read_rows
from hortus.learning.data.values import as_id
from hortus.runtime.errors import UsageError


class Reads(Protocol):
    """A task, as far as files are concerned."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a file must have."""
        ...

    def read(self, row: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401 - the task's own
        """Returns the value of a row, or raises UsageError."""
        ...


@dataclass(frozen=True, slots=True)
class Records:
    """What a task has read.

    Attributes:
        values: What the task makes of each row; it alone looks into one. Many lie on disk: see `keep`.
        rows: SHA-256 of each record's whole row in its file, all columns; empty without a file.
        units: Id of the privacy unit that each record belongs to; empty where each is one itself.
    """

    values: Sequence[Any]
    rows: tuple[bytes, ...] = ()
    units: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def unit_count(self) -> int:
        """How many privacy units they belong to."""
        return len(set(self.units)) or len(self)

    def take(self, indices: NDArray[np.int64]) -> "Records":
        """Returns some of the records."""
        values = keep(self.values[i] for i in indices)
        rows = tuple(self.rows[i] for i in indices) if self.rows else ()
        units = tuple(self.units[i] for i in indices) if self.units else ()
        return Records(values, rows, units)

    def unit_index(self) -> NDArray[np.int64]:
        """Returns the number of each record's unit, int64[n], from 0 in the order of the ids."""
        if not self.units:
            return np.arange(len(self), dtype=np.int64)
        # Not np.unique, whose strings are all as long as the longest and lose NULs at their end.
        numbers = {unit: number for number, unit in enumerate(sorted(set(self.units)))}
        return np.array([numbers[unit] for unit in self.units], np.int64)


def read_records(path: Path, task: Reads, unit_column: str | None = None) -> Records:
    """Reads a file of records.

    Args:
        path: The file.
        task: What is read of each row.
        unit_column: Column of the privacy unit's id; None: each record is a unit of its own.

    Raises:
        UsageError: It names the file, the line or row, the column, the value, and a remedy. Texts and
            ids of units are never quoted.
    """
    needed = (*task.columns, *([unit_column] if unit_column else []))
    rows: list[bytes] = []
    units: list[str] = []

    def read() -> Iterator[Any]:
        for place, row in read_rows(path, needed):
            where = f"{path}, {place}"
            rows.append(hashlib.sha256(_canonical(row)).digest())
            if unit_column:
                units.append(as_id(row[unit_column], f"{where}, column {unit_column!r}"))
            yield task.read(row, where)

    values = keep(read())
    if not values:
        raise UsageError("there are no records in it", where=str(path))
    return Records(values, tuple(rows), tuple(units))


def read_units(path: Path, unit_column: str | None) -> tuple[list[bytes], list[str]]:
    """Reads what identifies rows and units, whatever a plan makes of them.

    Args:
        path: The file.
        unit_column: Column of the privacy unit's id; None: each record is a unit of its own.

    Returns:
        `Records.rows`, and the ids of units as `Records.units` has them.

    Raises:
        UsageError: The file or the column cannot be read.
    """
    rows, units = [], []
    for place, row in read_rows(path, (unit_column,) if unit_column else ()):
        rows.append(hashlib.sha256(_canonical(row)).digest())
        if unit_column:
            units.append(as_id(row[unit_column], f"{path}, {place}, column {unit_column!r}"))
    if not rows:
        raise UsageError("there are no records in it", where=str(path))
    return rows, units


def read_ids(path: Path, column: str) -> list[str]:
    """Reads a column of ids, row by row.

    Raises:
        UsageError: The file or the column is not there, or a row has no id.
    """
    return [
        as_id(row[column], f"{path}, {place}, column {column!r}")
        for place, row in read_rows(path, (column,))
    ]


def record_bytes(records: Records) -> Iterator[bytes]:
    """Yields each record in one canonical form, for a fingerprint of the dataset.

    A budget goes by this fingerprint, so it is of whole rows: a plan that lists its labels in
    another order, or reads another column, finds the budget spent all the same.
    """
    assert len(records.rows) == len(records), "these records come from no file"  # noqa: S101
    yield from records.rows


def _canonical(row: dict[str, Any]) -> bytes:
    def plain(value: bytes | date | time | timedelta | Decimal) -> str:
        return value.hex() if isinstance(value, bytes) else str(value)

    return json.dumps(row, sort_keys=True, default=plain).encode()
