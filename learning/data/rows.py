"""Rows of a file of any format, as its name says: CSV here, the others in their own files."""

import csv
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hortus.learning.data.arrow import read_arrow, read_datasets, read_parquet
from hortus.learning.data.conll import read_conll
from hortus.learning.data.json_rows import read_json_lines, read_json_list
from hortus.learning.data.packing import PACKED_SUFFIXES
from hortus.learning.data.row import Row, check_distinct
from hortus.learning.data.text import LONGEST_LINE, read_lines
from hortus.runtime.errors import UsageError


def read_rows(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a file.

    Args:
        path: The file, or a folder of the `datasets` library.
        needed: Columns that each row must have.

    Raises:
        UsageError: It names the file, the line or row, and a remedy. It quotes no cell.
    """
    for place, row in _reader(path)(path):
        for column in needed:
            if column not in row:
                near = difflib.get_close_matches(column, row, n=1)
                raise UsageError(
                    f"there is no column {column!r}",
                    where=f"{path}, {place}",
                    remedy=(f"Did you mean {near[0]!r}? " if near else "")
                    + f"It has: {', '.join(map(repr, row))}",
                )
        yield place, row


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    if path.is_dir():
        return read_datasets
    if not path.is_file():
        problem = "this is no regular file" if path.exists() else "there is no such file"
        raise UsageError(problem, where=str(path))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in _READERS:
        raise UsageError(
            f"files that end in {suffix!r} are not read"
            if suffix
            else "its name ends in no format",
            where=str(path),
            remedy=f"Use {', '.join(_READERS)} (text may be compressed: .csv.gz, .csv.zst) or a folder "
            "of the datasets library.",
        )
    return _READERS[suffix]


def _read_csv(path: Path) -> Iterator[Row]:
    return _read_delimited(path, ",")


def _read_tsv(path: Path) -> Iterator[Row]:
    return _read_delimited(path, "\t")


def _read_delimited(path: Path, delimiter: str) -> Iterator[Row]:
    # Not splitlines: U+2028 and its like are characters of a text, not ends of a row.
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(read_lines(path, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"line {reader.line_num + 1}"  # where the row starts, however many lines it has
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UsageError(
                f"malformed CSV, in the row that starts here: {error}",
                where=f"{path}, {place}",
                remedy='A quote inside a quoted field is written twice: "say ""ah"", please".',
            ) from None
        if fields is None:
            return
        if not fields:
            continue  # a blank line
        if header is None:
            header = fields
            check_distinct(header, f"{path}, {place}")
            continue
        if len(fields) != len(header):
            raise UsageError(
                f"the row has not {len(header)} fields, as the header has, but {len(fields)}",
                where=f"{path}, {place}",
                remedy="A field that holds the separator, a quote or a line break is put in quotes.",
            )
        yield place, dict(zip(header, fields, strict=True))


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_list,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".conll": read_conll,
    ".iob": read_conll,
    ".bio": read_conll,
}
