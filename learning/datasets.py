"""Records from files: CSV, JSON lines, Parquet, or a folder of the `datasets` library."""

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from hortus.protocol.errors import UsageError
from hortus.protocol.plan import Task

Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Records:
    """Texts with their labels; `labels` is int64[n], indices into the task's list."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.int64]) -> "Records":
        """Returns some of the records."""
        return Records(tuple(self.texts[i] for i in indices), self.labels[indices])


def read_records(path: Path, task: Task) -> Records:
    """Reads a file of labelled texts.

    Raises:
        UsageError: It names the file, the row or column, the value, and a remedy. Texts are never
            quoted.
    """
    known = {label: index for index, label in enumerate(task.labels)}
    texts, labels = [], []
    for number, row in _read_rows(path, (task.text, task.label)):
        text, label = row[task.text], row[task.label]
        if not isinstance(text, str) or not text.strip():
            raise UsageError(
                "the text is empty", where=f"{path}, row {number}, column {task.text!r}"
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
    if not texts:
        raise UsageError("there are no records in it", where=str(path))
    return Records(tuple(texts), np.array(labels, np.int64))


def read_column(path: Path, column: str) -> list[str]:
    """Reads one column as strings, row by row.

    Raises:
        UsageError: The file or the column is not there.
    """
    return [str(row[column]) for _, row in _read_rows(path, (column,))]


def record_bytes(records: Records) -> Iterator[bytes]:
    """Yields each record in one canonical form, for a fingerprint of the dataset."""
    for text, label in zip(records.texts, records.labels, strict=True):
        yield json.dumps([text, int(label)], ensure_ascii=False).encode()


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


def _read_lines(path: Path) -> Iterable[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UsageError(
            f"byte 0x{error.object[error.start]:02x} is not UTF-8",
            where=f"{path}, line {line}",
            remedy="Convert the file: iconv -f LATIN1 -t UTF-8",
        ) from None


def _read_csv(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(_read_lines(path))
    try:
        for row in reader:
            if None in row.values() or None in row:
                raise UsageError(
                    f"the row has not {len(reader.fieldnames or ())} fields, as the header has",
                    where=f"{path}, line {reader.line_num}",
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise UsageError(
            f"malformed CSV: {error}", where=f"{path}, line {reader.line_num}"
        ) from None


def _read_json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            where = f"{path}, line {number}, column {error.colno}"
            raise UsageError(f"malformed JSON: {error.msg}", where=where) from None
        if not isinstance(row, dict):
            raise UsageError("the line is not a JSON object", where=f"{path}, line {number}")
        yield number, row


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"malformed Parquet: {type(error).__name__}", where=str(path)) from None
    yield from enumerate(table.to_pylist(), start=1)


def _read_datasets(path: Path) -> Iterator[Row]:
    try:
        from datasets import load_from_disk  # noqa: PLC0415 - an optional extra
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
    yield from enumerate(dataset, start=1)
