"""Questions to a trained model: lines of text, or rows of a file of any format that records may have."""

from collections.abc import Iterator, Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Any, NamedTuple

from hortus.learning.data.json_rows import json_row
from hortus.learning.data.packing import PACKED_SUFFIXES
from hortus.learning.data.rows import read_rows
from hortus.learning.data.text import read_lines
from hortus.runtime.errors import UsageError

_TEXT = ".txt"


class Question(NamedTuple):
    """What a model is asked.

    Attributes:
        where: The file and the line, for errors.
        asked: A text, or a row by column.
    """

    where: str
    asked: str | Mapping[str, Any]


def questions(path: Path, columns: Sequence[str]) -> Iterator[Question]:
    """Yields the questions of a file: of a text file one a line, of any other one a row.

    Args:
        path: The file; text may be compressed.
        columns: What each row must have.

    Raises:
        UsageError: The file cannot be read, or a row lacks a column.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    if suffixes[-1:] == [_TEXT]:
        for number, line in enumerate(read_lines(path, newline="\n"), start=1):
            yield Question(f"{path}, line {number}", line.rstrip("\r\n"))
        return
    for place, row in read_rows(path, columns):
        yield Question(f"{path}, {place}", row)


def piped(stream: TextIOBase, columns: Sequence[str], *, rows: bool) -> Iterator[Question]:
    """Yields the questions that come through a pipe, each as soon as it is there.

    Args:
        stream: One question a line.
        columns: What each row must have.
        rows: Whether a line is a row, as JSON, and not a text.

    Raises:
        UsageError: It is not text, or a line is not JSON or lacks a column.
    """
    number = 0
    try:
        while line := stream.readline():
            number += 1
            where = f"standard input, line {number}"
            text = line.rstrip("\r\n")
            if rows:
                row = json_row(text, where)
                if missing := [column for column in columns if column not in row]:
                    raise UsageError(
                        f"there is no column {missing[0]!r}",
                        where=where,
                        remedy=f"It has: {', '.join(map(repr, row))}",
                    )
                yield Question(where, row)
            else:
                yield Question(where, text)
    except UnicodeDecodeError:
        raise UsageError(
            "this is not UTF-8",
            where=f"standard input, line {number + 1}",
            remedy="Convert it first, for instance with iconv.",
        ) from None
