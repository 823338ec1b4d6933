"""The task of a trial with one's own files: told by which columns there are, and by what is in them."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hortus.learning.data.guess import LABEL_NAMES, Rows, collect_labels, guess_columns
from hortus.learning.data.values import as_label, as_list, as_number, is_missing
from hortus.learning.tasks.base import Task
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.extractive_qa import ExtractiveQA
from hortus.learning.tasks.multi_label import MultiLabel
from hortus.learning.tasks.regression import Regression
from hortus.learning.tasks.tagging import TokenClassification
from hortus.runtime.errors import UsageError

Tables = Mapping[Path, Rows]

_NUMBER_NAMES = ("score", "rating", "severity", "value", "stars")
_WORDS, _TAGS = ("tokens", "words"), ("tags", "ner_tags", "labels")
_TAG = re.compile(r"O|[BIELSU]-(?P<entity>.+)", re.DOTALL)
_SCHEMES = {"BI": "IOB2", "IE": "IOE2", "BIES": "IOBES", "BILU": "BILOU"}
# Subword tokens to a word, roughly; and what a text is cut to at least and at most.
_TOKENS_PER_WORD = 1.5
_SHORTEST, _LONGEST, _LENGTH_STEP = 32, 256, 16


def task_for(tables: Tables, text: str | None, label: str | None, unit: str | None) -> Task:
    """Returns the task that some files are for.

    Args:
        tables: The rows of each file.
        text: The column of the text, where it is known.
        label: That of what is to be told of it, likewise.
        unit: The column that says whose a record is.

    Raises:
        UsageError: No column, or more than one, may be meant; or a row does not fit what the others are.
    """
    names = {
        name
        for name in next(iter(tables.values()))[0][1]
        if all(name in row for rows in tables.values() for _, row in rows)
    }
    if text is None and label is None:
        if {"question", "context", "answer", "answer_start"} <= names:
            empty = any(is_missing(row["answer"]) for _, row in _rows(tables))
            words = _length(tables, "question") + _length(tables, "context")
            return ExtractiveQA(unanswerable=empty, max_length=min(words, _LONGEST))
        tokens, tags = (next((one for one in of if one in names), None) for of in (_WORDS, _TAGS))
        if tokens and tags and _are_lists(tables, tokens):
            return _tagging(tables, tokens, tags)
    known = [label] if label else [one for one in (*LABEL_NAMES, *_NUMBER_NAMES) if one in names]
    several = [one for one in known if _are_lists(tables, one)]
    numbers = [one for one in known if _are_measured(tables, one)]
    chosen = next(iter(several or numbers), label)
    columns = guess_columns(tables, text, chosen, unit)
    read: dict[str, Any] = {
        "text": columns.text,
        "label": columns.label,
        "max_length": _length(tables, columns.text),
    }
    if several:
        return MultiLabel(labels=_listed(tables, columns.label), **read)
    if numbers:
        values = [as_number(row[columns.label], where) for where, row in _rows(tables)]
        return Regression(lowest=math.floor(min(values)), highest=math.ceil(max(values)), **read)
    return TextClassification(labels=collect_labels(tables, columns.label), **read)


def _rows(tables: Tables) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each row with its place."""
    return ((f"{path}, {place}", row) for path, rows in tables.items() for place, row in rows)


def _are_lists(tables: Tables, column: str) -> bool:
    """Whether every cell is a list, written as JSON where the file has no lists; some may be empty."""
    cells = [row[column] for _, row in _rows(tables)]
    return all(isinstance(cell, list) or str(cell).lstrip().startswith("[") for cell in cells)


def _are_measured(tables: Tables, column: str) -> bool:
    """Whether cells are numbers, some of them with a fraction: whole ones may be names of classes."""
    try:
        values = [as_number(row[column], where) for where, row in _rows(tables)]
    except UsageError:
        return False
    return any(value % 1 for value in values)


def _listed(tables: Tables, column: str) -> tuple[str, ...]:
    """Returns all labels of a column of lists."""
    labels = set[str]()
    for where, row in _rows(tables):
        cell = row[column]
        if cell not in ([], "[]"):
            labels.update(as_label(one, where) for one in as_list(cell, where))
    return tuple(sorted(labels))


def _tagging(tables: Tables, tokens: str, tags: str) -> TokenClassification:
    found = {str(tag): where for where, row in _rows(tables) for tag in as_list(row[tags], where)}
    matches = {tag: _TAG.fullmatch(tag) for tag in found}
    wrong = [tag for tag, match in matches.items() if match is None]
    if wrong:
        raise UsageError(
            f"{wrong[0][:60]!r} is no tag such as B-Disease",
            where=f"{found[wrong[0]]}, column {tags!r}",
            remedy="Write tags in IOB2: B-NAME, I-NAME and O.",
        )
    parts = {tag[0] for tag, match in matches.items() if match and match["entity"]}
    scheme = next((name for known, name in _SCHEMES.items() if parts <= set(known)), "IOB2")
    return TokenClassification(
        tokens=tokens,
        tags=tags,
        entities=tuple(
            sorted({one["entity"] for one in matches.values() if one and one["entity"]})
        ),
        scheme=scheme,
        max_length=_length(tables, tokens),
    )


def _length(tables: Tables, column: str) -> int:
    """Returns the tokens that texts are cut to: room for nineteen of twenty, roughly."""
    cells = [row[column] for _, row in _rows(tables)]
    words = sorted(len(one if isinstance(one, list) else str(one).split()) for one in cells)
    tokens = _TOKENS_PER_WORD * words[math.ceil(0.95 * len(words)) - 1]
    fitting = _LENGTH_STEP * math.ceil(tokens / _LENGTH_STEP)
    return max(_SHORTEST, min(_LONGEST, fitting))
