"""Tagged text as CoNLL's shared tasks have it: a word and its tags on each line, a blank line between sentences.

The first column is called `tokens` and the last `tags`; those between go by their number, from `2`. A comment such as
`# patient = 7` above a sentence is one more column of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hortus.learning.data.row import Row, check_distinct
from hortus.learning.data.text import read_lines
from hortus.runtime.errors import UsageError

_MOST_WORDS = 2**16  # of a sentence: a file without blank lines is not read into memory whole
_DOCUMENT = "-DOCSTART-"
_COMMENT = re.compile(r"#\s*([^=]*[^=\s])\s*=\s*(.*)")


@dataclass(slots=True)
class _Sentence:
    place: str
    said: dict[str, Any] = field(default_factory=dict)
    words: list[list[str]] = field(default_factory=list)

    def row(self, path: Path) -> Row:
        columns: list[list[str]] = list(map(list, zip(*self.words, strict=True)))
        between = [str(number) for number in range(2, len(columns))]
        names = ["tokens", *between, "tags"]
        check_distinct([*self.said, *names], f"{path}, {self.place}")
        return self.place, self.said | dict(zip(names, columns, strict=True))


class _Fields:
    """Takes a file's lines apart: at tabs where its first line of words has one, else at blanks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tabs: bool | None = None
        self._width = 0

    def comment(self, line: str) -> str | None:
        """Returns a line without a word; in a file with blanks between its columns no line is one."""
        if self._tabs is not False and line.startswith("#") and "\t" not in line:
            return line
        return None

    def of(self, line: str, place: str) -> list[str]:
        """Returns a word and its tags."""
        if self._tabs is None:
            self._tabs = "\t" in line
        fields = line.split("\t") if self._tabs else line.split()
        where = f"{self._path}, {place}"
        if len(fields) < 2:
            raise UsageError(
                "the line has one field: a word and its tag are needed",
                where=where,
                remedy="Put a tab between them, and a blank line between sentences.",
            )
        self._width = self._width or len(fields)
        if len(fields) != self._width:
            raise UsageError(
                f"the line has {len(fields)} fields, and those before it have {self._width}",
                where=where,
                remedy="Every line has the same columns, with a tab between them.",
            )
        if not all(map(str.strip, fields)):
            raise UsageError("a field of the line is empty", where=where, remedy="Fill it in.")
        return fields


def read_conll(path: Path) -> Iterator[Row]:
    """Yields a row for each sentence.

    Raises:
        UsageError: A line has no tag, or other columns than those before it. It quotes no word.
    """
    fields, sentence = _Fields(path), None
    for number, line in enumerate(read_lines(path, newline="\n"), start=1):
        text, place = line.rstrip("\r\n"), f"line {number}"
        if not text.strip():
            if sentence is not None and sentence.words:
                yield sentence.row(path)
            sentence = None
            continue
        sentence = sentence or _Sentence(place)
        if (comment := fields.comment(text)) is not None:
            if found := _COMMENT.fullmatch(comment):
                sentence.said[found[1]] = found[2]
            continue
        word = fields.of(text, place)
        if word[0] == _DOCUMENT:
            continue
        sentence.words.append(word)
        if len(sentence.words) > _MOST_WORDS:
            raise UsageError(
                f"the sentence has more than {_MOST_WORDS:,} words",
                where=f"{path}, {sentence.place}",
                remedy="Put a blank line between sentences.",
            )
    if sentence is not None and sentence.words:
        yield sentence.row(path)
