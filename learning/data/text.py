"""Text files as lines: unpacked and decoded on the way, in bounded memory."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hortus.learning.data.encodings import explain, explain_without_mark, marked
from hortus.learning.data.packing import check_is_text, open_bytes, unreadable
from hortus.runtime.errors import UsageError

LONGEST_LINE = 2**26  # characters of a line, and of a field of a CSV file
_HEAD_BYTES = 4096


def read_lines(path: Path, newline: str) -> Iterator[str]:
    r"""Yields the lines of a text file, with their ends.

    Args:
        path: See `opened_text`.
        newline: As of `open`: with "" a line ends at \n, \r or \r\n, with "\n" at \n alone.

    Raises:
        UsageError: The file cannot be read or unpacked, is no text, or is in another encoding.
    """
    with opened_text(path, newline) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise UsageError("the line is too long", where=f"{path}, line {number}")
            yield line


@contextmanager
def opened_text(path: Path, newline: str) -> Iterator[TextIO]:
    """Opens a text file, and says in our own words what is wrong with it, now or when it is read.

    Args:
        path: In UTF-8, or in what its byte order mark says; plain, or compressed by gzip or zstd.
        newline: As of `open`.

    Raises:
        UsageError: The file cannot be read or unpacked, is no text, or is in another encoding.
    """
    try:
        with open_bytes(path) as stream:
            head = stream.read(_HEAD_BYTES)
        check_is_text(path, head)
        encoding = marked(head)
        if encoding is None and (error := explain_without_mark(path, head)):
            raise error
        with io.TextIOWrapper(open_bytes(path), encoding or "utf-8", newline=newline) as file:
            yield file
    except UnicodeDecodeError:
        raise explain(path) from None
    except OSError as failure:
        raise unreadable(path, failure) from None
