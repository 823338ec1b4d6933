"""Which columns of some files hold the text and the label, where nobody has said so."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hortus.learning.data.rows import read_rows
from hortus.learning.data.values import as_id, as_label, is_missing
from hortus.runtime.errors import UsageError

_MOST_LABELS = 1000
# A label comes back: a column in which most values are unlike one another is an id, a date or a text.
_LEAST_PER_LABEL = 2
_TEXT_NAMES = ("text", "texts", "sentence", "utterance", "question", "comment", "message", "note")
LABEL_NAMES = ("label", "labels", "category", "class", "intent", "topic", "target")
# A column with a few gaps is still meant: whoever reads it names the rows.
_LEAST_PRESENT = 0.9
# How much longer than every other column the texts must be to be told by their length alone.
_CLEARLY_LONGER = 2.0

Rows = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns.

    Attributes:
        text: What is read.
        label: What is to be told from it.
    """

    text: str
    label: str


def read_all(paths: Iterable[Path], needed: Sequence[str]) -> dict[Path, Rows]:
    """Reads files whole.

    Raises:
        UsageError: One cannot be read, lacks a column that is needed, or holds no record.
    """
    tables: dict[Path, Rows] = {path: list(read_rows(path, needed)) for path in paths}
    for path, rows in tables.items():
        if not rows:
            raise UsageError("there are no records in it", where=str(path))
    return tables


def guess_columns(
    tables: Mapping[Path, Rows],
    text: str | None = None,
    label: str | None = None,
    unit: str | None = None,
) -> Columns:
    """Tells the columns of text and label from what all files have.

    Args:
        tables: The rows of each file.
        text: The column of the text, where it is known.
        label: That of the label, likewise.
        unit: The column that says whose a record is; it is neither.

    Raises:
        UsageError: No column, or more than one, may be meant; it names them and the option to give.
    """
    names = [
        name
        for name in next(iter(tables.values()))[0][1]
        if all(name in row for rows in tables.values() for _, row in rows)
    ]
    values = {
        name: [row[name] for rows in tables.values() for _, row in rows]
        for name in names
        if name not in (text, label, unit)
    }
    if text is None:
        lengths = {name: _mean_length(column) for name, column in values.items()}
        text = _guess_text({name: long for name, long in lengths.items() if long}, names)
    if label is None:
        classes = [name for name, column in values.items() if name != text and _is_label(column)]
        label = _choose(classes, LABEL_NAMES, "label", names)
    return Columns(text, label)


def collect_labels(tables: Mapping[Path, Rows], column: str) -> tuple[str, ...]:
    """Returns all labels of some files, sorted.

    Raises:
        UsageError: A row has none, or one that is no label; or there are too few or too many of them.
    """
    labels = {
        as_label(row[column], f"{path}, {place}, column {column!r}")
        for path, rows in tables.items()
        for place, row in rows
    }
    if not 2 <= len(labels) <= _MOST_LABELS:
        raise UsageError(
            f"the column {column!r} holds {len(labels)} different labels",
            where=", ".join(map(str, tables)),
            remedy=f"A task has 2 to {_MOST_LABELS}: name the column that holds them with --label.",
        )
    return tuple(sorted(labels))


def units_of(path: Path, rows: Rows, column: str) -> dict[str, int]:
    """Returns how many records each unit of a file has.

    Raises:
        UsageError: A row does not say whose it is.
    """
    counts: dict[str, int] = {}
    for place, row in rows:
        unit = as_id(row[column], f"{path}, {place}, column {column!r}")
        counts[unit] = counts.get(unit, 0) + 1
    return counts


def _guess_text(lengths: Mapping[str, float], names: Sequence[str]) -> str:
    longest = sorted(lengths, key=lengths.__getitem__, reverse=True)
    named = [name for name in longest if name.lower() in _TEXT_NAMES]
    if len(named) == 1:
        return named[0]
    if longest and all(
        lengths[longest[0]] >= _CLEARLY_LONGER * lengths[other] for other in longest[1:]
    ):
        return longest[0]
    return _choose(longest, _TEXT_NAMES, "text", names)


def _choose(
    candidates: Sequence[str], known: Sequence[str], what: str, names: Sequence[str]
) -> str:
    """Returns the only candidate, or the only one with a usual name."""
    named = [name for name in candidates if name.lower() in known]
    for found in (candidates, named):
        if len(found) == 1:
            return found[0]
    said = (
        f"{' or '.join(map(repr, candidates))} may hold the {what}"
        if candidates
        else f"no column looks like the {what}"
    )
    raise UsageError(
        f"{said}: which one does?",
        where=f"--{what}",
        remedy=f"Name it: --{what} COLUMN. All files have: {', '.join(map(repr, names))}.",
    )


def _mean_length(column: Sequence[Any]) -> float:
    """Returns the mean number of characters, or 0 where values are no texts, or words of ASCII alone."""
    texts = [value for value in _present(column) if isinstance(value, str)]
    told = any(len(text.split()) > 1 or not text.isascii() for text in texts)
    if len(texts) < _LEAST_PRESENT * len(column) or not told:
        return 0.0
    return sum(map(len, texts)) / len(texts)


def _is_label(column: Sequence[Any]) -> bool:
    """Whether a column may hold labels: two or more, and each of them often enough."""
    present = _present(column)
    try:
        labels = {as_label(value, "") for value in present}
    except UsageError:
        return False
    enough = len(present) >= _LEAST_PRESENT * len(column)
    return enough and 2 <= len(labels) <= min(_MOST_LABELS, len(present) // _LEAST_PER_LABEL)


def _present(column: Sequence[Any]) -> list[Any]:
    return [value for value in column if not is_missing(value)]
