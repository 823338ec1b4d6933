"""Labelled texts of a file, checked against a plan's task."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hortus.learning.data.rows import read_rows
from hortus.learning.data.values import as_id, as_label, without_point
from hortus.protocol.plan import Task
from hortus.runtime.errors import UsageError

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Records:
    """Texts with their labels.

    Attributes:
        texts: The texts.
        labels: int64[n], indices into the task's list.
        rows: SHA-256 of each record's whole row in its file, all columns; empty without a file.
        units: Id of the privacy unit that each record belongs to; empty where each is one itself.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    rows: tuple[bytes, ...] = ()
    units: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def unit_count(self) -> int:
        """How many privacy units they belong to."""
        return len(set(self.units)) or len(self)

    def take(self, indices: NDArray[np.int64]) -> "Records":
        """Returns some of the records."""
        texts = tuple(self.texts[i] for i in indices)
        rows = tuple(self.rows[i] for i in indices) if self.rows else ()
        units = tuple(self.units[i] for i in indices) if self.units else ()
        return Records(texts, self.labels[indices], rows, units)

    def unit_index(self) -> NDArray[np.int64]:
        """Returns the number of each record's unit, int64[n], from 0 in the order of the ids."""
        if not self.units:
            return np.arange(len(self), dtype=np.int64)
        # Not np.unique, whose strings are all as long as the longest and lose NULs at their end.
        numbers = {unit: number for number, unit in enumerate(sorted(set(self.units)))}
        return np.array([numbers[unit] for unit in self.units], np.int64)


def read_records(path: Path, task: Task, unit_column: str | None = None) -> Records:
    """Reads a file of labelled texts.

    Args:
        path: The file.
        task: Columns and labels.
        unit_column: Column of the privacy unit's id; None: each record is a unit of its own.

    Raises:
        UsageError: It names the file, the line or row, the column, the value, and a remedy. Texts and
            ids of units are never quoted.
    """
    known = {as_label(label, "task.labels"): index for index, label in enumerate(task.labels)}
    needed = (task.text, task.label, *([unit_column] if unit_column else []))
    texts, labels, rows, units = [], [], [], []
    for place, row in read_rows(path, needed):
        where = f"{path}, {place}, column "
        texts.append(_text(row[task.text], f"{where}{task.text!r}"))
        labels.append(_index(row[task.label], known, f"{where}{task.label!r}"))
        rows.append(hashlib.sha256(_canonical(row)).digest())
        if unit_column:
            units.append(as_id(row[unit_column], f"{where}{unit_column!r}"))
    if not texts:
        raise UsageError("there are no records in it", where=str(path))
    return Records(tuple(texts), np.array(labels, np.int64), tuple(rows), tuple(units))


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


def _text(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    if not isinstance(value, str) or not value.strip():
        raise UsageError("the text is empty, or no text", where=where)
    if _SURROGATE.search(value):
        raise UsageError(
            "the text holds half a surrogate pair",
            where=where,
            remedy="Write the file again, with whole characters.",
        )
    return value


def _index(value: Any, known: Mapping[str, int], where: str) -> int:  # noqa: ANN401 - as above
    """Returns the number of a label."""
    label = as_label(value, where)
    if label in known:
        return known[label]
    near = difflib.get_close_matches(label, known, n=1)
    if (whole := without_point(label)) in known:
        near = [whole]
    raise UsageError(
        f"the label {label[:60]!r} is not one of the plan's {len(known)}",
        where=where,
        remedy=f"Did you mean {near[0]!r}?" if near else "Correct it, or extend task.labels.",
    )


def _canonical(row: dict[str, Any]) -> bytes:
    def plain(value: bytes | date | time | timedelta | Decimal) -> str:
        return value.hex() if isinstance(value, bytes) else str(value)

    return json.dumps(row, sort_keys=True, default=plain).encode()
