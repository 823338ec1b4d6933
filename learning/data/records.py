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

from hortus.learning.data.kept import keep, picked
from hortus.learning.data.rows import read_rows
from hortus.learning.data.values import as_id
from hortus.learning.data.view import AS_IT_IS, View
from hortus.runtime.errors import UsageError

MOST_ROWS = 2**24
"""Of a file: a site keeps a keyed hash of each row and unit, some 30 bytes of disk each, and they are compared in memory."""


class Reads(Protocol):
    """A task, as far as files are concerned."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a file must have."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """Those of them that hold what people have written, which may name somebody."""
        ...

    def read(self, row: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401 - the task's own
        """Returns the value of a row, or raises UsageError."""
        ...

    def row(self, value: Any) -> dict[str, Any]:  # noqa: ANN401 - the task's own
        """Returns the row that `read` reads a value from, as JSON has it."""
        ...


class RowCodec:
    """Writes a value as the row, in JSON, that its task reads it from."""

    def __init__(self, task: Reads) -> None:
        self._task = task

    def encode(self, value: Any) -> bytes:  # noqa: ANN401 - the task's own
        """See `Codec`."""
        return json.dumps(self._task.row(value)).encode()

    def decode(self, data: bytes) -> Any:  # noqa: ANN401 - the task's own
        """See `Codec`."""
        return self._task.read(json.loads(data), "a record kept on disk")


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
        values = picked(self.values, indices)
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


def read_records(
    path: Path, task: Reads, unit_column: str | None = None, view: View = AS_IT_IS
) -> Records:
    """Reads a file of records.

    Args:
        path: The file.
        task: What is read of each row.
        unit_column: Column of the privacy unit's id; None: each record is a unit of its own.
        view: The file's own names for columns, and what is masked in them.

    Raises:
        UsageError: It names the file, the line or row, the column, the value, and a remedy. Texts and
            ids of units are never quoted.
        HortusError: They are larger than memory should hold, and there is no room on the disk.
    """
    rows: list[bytes] = []
    units: list[str] = []

    def read() -> Iterator[Any]:
        for where, row in _seen(path, task.columns, unit_column, view, rows, units, task.texts):
            yield task.read(row, where)

    try:
        values = keep(read(), RowCodec(task))
    except UsageError as error:
        raise view.explained(error) from error
    if not values:
        raise UsageError("there are no records in it", where=str(path))
    return Records(values, tuple(rows), tuple(units))


def read_units(
    path: Path, unit_column: str | None, view: View = AS_IT_IS
) -> tuple[list[bytes], list[str]]:
    """Reads what identifies rows and units, whatever a plan makes of them.

    Args:
        path: The file.
        unit_column: Column of the privacy unit's id; None: each record is a unit of its own.
        view: The file's own names for columns.

    Returns:
        `Records.rows`, and the ids of units as `Records.units` has them.

    Raises:
        UsageError: The file or the column cannot be read.
    """
    rows: list[bytes] = []
    units: list[str] = []
    try:
        for _ in _seen(path, (), unit_column, view, rows, units):
            pass
    except UsageError as error:
        raise view.explained(error) from error
    if not rows:
        raise UsageError("there are no records in it", where=str(path))
    return rows, units


def _seen(
    path: Path,
    columns: Sequence[str],
    unit_column: str | None,
    view: View,
    rows: list[bytes],
    units: list[str],
    texts: Sequence[str] = (),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each row as a plan sees it, with its place; notes its hash, and whose it is.

    What is hashed is the row as it stands in the file: neither a column's name nor a mask makes it another.
    """
    needed = view.sources([*columns, *([unit_column] if unit_column else [])])
    for place, row in read_rows(path, needed):
        if len(rows) == MOST_ROWS:
            raise UsageError(
                f"the file has more than {MOST_ROWS:,} rows",
                where=f"{path}, {place}",
                remedy="Leave rows out, or join those of one unit: a site keeps a hash of each.",
            )
        where = f"{path}, {place}"
        rows.append(hashlib.sha256(canonical_row(row)).digest())
        seen = view.of(row, texts)
        if unit_column:
            units.append(as_id(seen[unit_column], f"{where}, column {unit_column!r}"))
        yield where, seen


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


def canonical_row(row: Mapping[str, Any]) -> bytes:
    """Returns the bytes that a row, all of its columns, is hashed by."""

    def plain(value: bytes | date | time | timedelta | Decimal) -> str:
        return value.hex() if isinstance(value, bytes) else str(value)

    return json.dumps(row, sort_keys=True, default=plain).encode()
