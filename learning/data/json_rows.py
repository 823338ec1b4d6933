"""Rows as JSON objects: one on each line, or in a list; read one by one, however many there are."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from hortus.learning.data.row import Row
from hortus.learning.data.text import LONGEST_LINE, opened_text, read_lines
from hortus.runtime.canonical import KeyTwiceError, distinct_keys
from hortus.runtime.errors import UsageError

_CHUNK = 2**16
_BLANK = re.compile(r"[ \t\r\n]*")
_decoder = json.JSONDecoder(object_pairs_hook=distinct_keys)


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yields the objects of a file that has one on each line."""
    for number, line in enumerate(read_lines(path, newline="\n"), start=1):
        if line.strip():
            place = f"line {number}"
            yield place, json_row(line, f"{path}, {place}")


def read_json_list(path: Path) -> Iterator[Row]:
    """Yields the objects of a file that is a list of them, or that has one after another."""
    with opened_text(path, newline="\n") as file:
        text = _Text(file, path)
        is_list = text.next() == "["
        if is_list:
            text.skip()
        number = 0
        while text.next() not in {"", "]"}:
            number += 1
            place = f"object {number}"
            yield place, _object(text.value(place), f"{path}, {place}", "value")
            if is_list and text.next() == ",":
                text.skip()
                if text.next() == "]":
                    raise UsageError("malformed JSON: a comma ends the list", where=str(path))
            elif is_list and text.next() != "]":
                raise UsageError(
                    "malformed JSON: a comma, or the list's end, is missing",
                    where=f"{path}, after {place}",
                )
        if is_list and text.next() == "]":
            text.skip()
        elif is_list:
            raise UsageError("malformed JSON: the list does not end", where=str(path))
        if text.next():
            raise UsageError("malformed JSON: there is more behind the list", where=str(path))


def json_row(line: str, where: str) -> dict[str, Any]:
    """Returns the row that a line of JSON holds.

    Raises:
        UsageError: It is malformed, or no object.
    """
    return _object(_parsed(_loads, line, where), where, "line")


def _loads(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    return json.loads(text, object_pairs_hook=distinct_keys)


class _Text:
    """A file's text, of which no more is held than one value needs."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._held, self._at = "", 0

    def next(self) -> str:
        """Returns the next character that is not blank; empty at the end."""
        while True:
            found = _BLANK.match(self._held, self._at)
            assert found is not None  # noqa: S101 - it matches nothing, too
            self._at = found.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Passes over the next character."""
        self._at += 1

    def value(self, place: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Reads the next value."""
        while True:
            try:
                found, self._at = _decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError:
                if len(self._held) - self._at < LONGEST_LINE and self._more():
                    continue
                self._held, self._at = self._held[self._at :], 0
                return _parsed(_decoder.decode, self._held, f"{self._path}, {place}")
            except (KeyTwiceError, ValueError, RecursionError):
                return _parsed(_decoder.decode, self._held[self._at :], f"{self._path}, {place}")
            return found

    def _more(self) -> bool:
        """Reads as much again as is held, so that a long value is not begun too often; False at the end."""
        rest = self._held[self._at :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        self._held, self._at = rest + chunk, 0
        return bool(chunk)


def _parsed(parse: Callable[[str], Any], text: str, where: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        column = f", column {error.colno}" if error.lineno == 1 else f", its line {error.lineno}"
        raise UsageError(f"malformed JSON: {error.msg}", where=where + column) from None
    except KeyTwiceError as error:
        raise UsageError(
            f"the key {error.args[0][:60]!r} comes twice in an object",
            where=where,
            remedy="Keep the one that is meant.",
        ) from None
    except (ValueError, RecursionError):
        raise UsageError("a number is too long, or the nesting too deep", where=where) from None


def _object(value: Any, where: str, what: str) -> dict[str, Any]:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(value, dict):
        raise UsageError(f"the {what} is not a JSON object", where=where)
    return value
