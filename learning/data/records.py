"""Records from files: CSV, JSON lines, Parquet, or a folder of the `datasets` library."""

import csv
import difflib
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from hortus.protocol.errors import UsageError
from hortus.protocol.plan import Task

Row = tuple[int, dict[str, Any]]

_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_FIELD = 2**31 - 1  # of a CSV file; a letter may have more than the module's 2¹⁷ characters


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
        UsageError: It names the file, the row or column, the value, and a remedy. Texts and ids of
            units are never quoted.
    """
    known = {label: index for index, label in enumerate(task.labels)}
    needed = (task.text, task.label, *([unit_column] if unit_column else []))
    texts, labels, rows, units = [], [], [], []
    for number, row in _read_rows(path, needed):
        text, label = row[task.text], row[task.label]
        if not isinstance(text, str) or not text.strip():
            raise UsageError(
                "the text is empty, or no text",
                where=f"{path}, row {number}, column {task.text!r}",
            )
        if _SURROGATE.search(text):
            raise UsageError(
                "the text holds half a surrogate pair",
                where=f"{path}, row {number}, column {task.text!r}",
                remedy="Write the file anew with whole characters.",
            )
        if str(label) not in known:
            near = difflib.get_close_matches(str(label), task.labels, n=1)
            raise UsageError(
                f"the label {str(label)[:60]!r} is not one of the plan's {len(known)}",
                where=f"{path}, row {number}, column {task.label!r}",
                remedy=f"Did you mean {near[0]!r}?"
                if near
                else "Correct it, or extend task.labels.",
            )
        texts.append(text)
        labels.append(known[str(label)])
        rows.append(hashlib.sha256(_canonical(row)).digest())
        if unit_column:
            units.append(
                _unit_id(row[unit_column], f"{path}, row {number}, column {unit_column!r}")
            )
    if not texts:
        raise UsageError("there are no records in it", where=str(path))
    return Records(tuple(texts), np.array(labels, np.int64), tuple(rows), tuple(units))


def read_column(path: Path, column: str) -> list[str]:
    """Reads one column as strings, row by row.

    Raises:
        UsageError: The file or the column is not there.
    """
    return [str(row[column]) for _, row in _read_rows(path, (column,))]


def record_bytes(records: Records) -> Iterator[bytes]:
    """Yields each record in one canonical form, for a fingerprint of the dataset.

    A budget goes by this fingerprint, so it is of whole rows: a plan that lists its labels in
    another order, or reads another column, finds the budget spent all the same.
    """
    assert len(records.rows) == len(records), "these records come from no file"  # noqa: S101
    yield from records.rows


def _unit_id(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """Returns an id as text: 7, 7.0 and " 7 " are one patient, however a file came to hold them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with a gap in it is read as floats
    if value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip():
        raise UsageError(
            "the id of the privacy unit is empty",
            where=where,
            remedy="Say whose the record is. Where nobody knows, give it an id of its own.",
        )
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(
            f"a {type(value).__name__} is no id of a privacy unit",
            where=where,
            remedy="Write ids as text or as whole numbers.",
        )
    return str(value).strip()


def _canonical(row: dict[str, Any]) -> bytes:
    def plain(value: bytes | date | time | timedelta | Decimal) -> str:
        return value.hex() if isinstance(value, bytes) else str(value)

    return json.dumps(row, sort_keys=True, default=plain).encode()


def _read_rows(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    """Yields (row number as an editor shows it, row); checks that the columns are there."""
    if path.is_dir():
        reader = _read_datasets
    else:
        readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
        if not path.is_file():
            raise UsageError("there is no such file", where=str(path))
        if path.suffix not in readers:
            raise UsageError(
                f"files that end in {path.suffix!r} are not read",
                where=str(path),
                remedy=f"Use {', '.join(readers)} or a folder of the datasets library.",
            )
        reader = readers[path.suffix]
    for number, row in reader(path):
        for column in needed:
            if column not in row:
                near = difflib.get_close_matches(column, [str(key) for key in row], n=1)
                raise UsageError(
                    f"there is no column {column!r}",
                    where=f"{path}, row {number}",
                    remedy=(f"Did you mean {near[0]!r}? " if near else "")
                    + f"It has: {', '.join(map(repr, row))}",
                )
        yield number, row


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=str(path)) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"byte 0x{error.object[error.start]:02x} is not UTF-8",
            where=f"{path}, line {line}",
            remedy="Convert the file: iconv -f LATIN1 -t UTF-8",
        ) from None


def _read_csv(path: Path) -> Iterator[Row]:
    # Not splitlines: U+2028 and its like are characters of a text, not ends of a row.
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = reader.fieldnames or ()
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise UsageError(f"the column {twice!r} comes twice", where=f"{path}, line 1")
        for row in reader:
            if None in row.values() or None in row:
                raise UsageError(
                    f"the row has not {len(header)} fields, as the header has",
                    where=f"{path}, line {reader.line_num}",
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise UsageError(
            f"malformed CSV: {error}", where=f"{path}, line {reader.line_num}"
        ) from None


def _read_json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            where = f"{path}, line {number}, column {error.colno}"
            raise UsageError(f"malformed JSON: {error.msg}", where=where) from None
        except (ValueError, RecursionError):
            raise UsageError(
                "a number is too long, or the nesting too deep", where=f"{path}, line {number}"
            ) from None
        if not isinstance(row, dict):
            raise UsageError("the line is not a JSON object", where=f"{path}, line {number}")
        yield number, row


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"malformed Parquet: {type(error).__name__}", where=str(path)) from None
    yield from enumerate(_table_rows(path, table), start=1)


def _table_rows(path: Path, table: pyarrow.Table) -> list[dict[str, Any]]:
    try:
        table.validate(full=True)
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise UsageError(f"malformed values: {type(error).__name__}", where=str(path)) from None
    return rows


def _read_datasets(path: Path) -> Iterator[Row]:
    try:
        from datasets import ClassLabel, DatasetDict, load_from_disk  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError(
            "reading a folder needs the datasets library",
            where=str(path),
            remedy="pip install datasets",
        ) from None
    try:
        dataset = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"the folder is not one of the datasets library: {type(error).__name__}",
            where=str(path),
            remedy="Make it with Dataset.save_to_disk.",
        ) from None
    if isinstance(dataset, DatasetDict):
        raise UsageError(
            f"the folder holds several datasets: {', '.join(dataset)}",
            where=str(path),
            remedy=f"Name one of them: {path / next(iter(dataset), '')}",
        )
    named = {
        column: feature.names
        for column, feature in dataset.features.items()
        if isinstance(feature, ClassLabel)
    }
    # As Arrow: nothing is decoded, images and sound least of all.
    table = dataset.with_format("arrow")[:]
    for number, row in enumerate(_table_rows(path, table), start=1):
        for column, names in named.items():
            # -1 is the library's "unknown"; no class is no label of a plan either.
            if row[column] is not None and 0 <= row[column] < len(names):
                row[column] = names[row[column]]
        yield number, row
