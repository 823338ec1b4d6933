"""What a cell of a file may be: a text, a label, or an id. Nothing else becomes one by being printed."""

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

from hortus.runtime.errors import UsageError

_EXACT = 2**53  # every whole number up to here is a float of its own
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {
    bool: "a truth value",
    float: "a number with a point",
    Decimal: "a number with a point",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
}


def as_text(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """Returns a text as it is.

    Raises:
        UsageError: It is none, or blank. It is not quoted.
    """
    if not isinstance(value, str) or not value.strip():
        raise UsageError("the text is empty, or no text", where=where)
    if _SURROGATE.search(value):
        raise UsageError(
            "the text holds half a surrogate pair",
            where=where,
            remedy="Write the file again, with whole characters.",
        )
    return value


def check_words(words: Sequence[str], one: str, several: str, blank: str = "") -> None:
    """Checks a plan's list of labels, or of whatever else records name.

    Args:
        words: The list.
        one: What one of them is called, with its article.
        several: What they are called.
        blank: What is wrong with a blank one, where there is more to say.

    Raises:
        ValueError: One is blank, or two are the same.
    """
    if not all(word.strip() for word in words):
        raise ValueError(f"{one} is blank{blank}")
    # In one form: é is a character of its own, or an e and an accent, and looks the same.
    if len({unicodedata.normalize("NFC", word) for word in words}) != len(words):
        raise ValueError(f"the {several} are not distinct")


def numbered(words: Sequence[str]) -> dict[str, int]:
    """Returns a plan's labels with their numbers, in the form in which `as_index` looks for a file's."""
    return {as_label(word, "plan"): number for number, word in enumerate(words)}


def as_list(value: Any, where: str) -> list[Any]:  # noqa: ANN401 - as above
    """Returns a list that is not empty; a text, as in a cell of CSV, is read as JSON.

    Raises:
        UsageError: It is none.
    """
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, list) or not value:
        raise UsageError(
            "it is no list, or an empty one",
            where=where,
            remedy='Write a list, as JSON: ["a", "b"].',
        )
    return value


def as_index(value: Any, known: Mapping[str, int], where: str) -> int:  # noqa: ANN401 - as above
    """Returns the number of a label.

    Args:
        value: A label, as `as_label` takes it.
        known: The plan's labels with their numbers.
        where: The place, for errors.

    Raises:
        UsageError: It is no label, or not one of the plan's; names the nearest.
    """
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


def as_number(value: Any, where: str) -> float:  # noqa: ANN401 - as above
    """Returns a finite number; a text, as in a cell of CSV, is read as one.

    Raises:
        UsageError: It is none. It is not quoted.
    """
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    number = not isinstance(value, bool) and isinstance(value, int | float | Decimal)
    if not number or not math.isfinite(value):
        raise UsageError(
            "it is no number, or not a finite one",
            where=where,
            remedy="Write a number, such as 3.5; leave out records that have none.",
        )
    return float(value)


def as_label(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """Returns a label as the plan writes it: text, or a whole number.

    Raises:
        UsageError: The value is missing, or is something else, which would have to be made a word.
    """
    if is_missing(value):
        raise UsageError(
            f"there is no label{_shown(value)}",
            where=where,
            remedy="Say what the record is, or leave it out.",
        )
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    whole = isinstance(value, Decimal) and value.is_finite() and value.as_tuple().exponent == 0
    if whole or (isinstance(value, int) and not isinstance(value, bool)):
        return str(int(value))
    kind = _KINDS.get(type(value), f"a {type(value).__name__}")
    raise UsageError(
        f"the label is {kind}{_shown(value)}, not text",
        where=where,
        remedy=_as_text(value),
    )


def as_id(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """Returns an id as text: 7, 7.0, "7.0" and " 7 " are one patient, however a file came to hold them.

    Cases, leading zeros and blanks within an id are kept, since they may tell people apart. Two forms of one id must not become two, since the promise is for each id: so accents have one
    encoding (NFC), and a float is an id only where it holds every digit.

    Raises:
        UsageError: The id is missing, or is no text and no whole number. It is not quoted.
    """
    if is_missing(value):
        raise UsageError(
            "the id is missing",
            where=where,
            remedy="Say whose the record is. Where nobody knows, give it an id of its own.",
        )
    if isinstance(value, float) and math.isfinite(value) and abs(value) >= _EXACT:
        raise UsageError(
            "the id is a float, too long to hold all its digits",
            where=where,
            remedy="Write ids as text or as whole numbers: rounded, two of them may be one.",
        )
    if _is_whole(value):
        value = int(value)  # a column of whole numbers with a gap in it is read as floats
    if isinstance(value, bool) or not isinstance(value, str | int | UUID):
        raise UsageError(
            f"a {type(value).__name__} is no id",
            where=where,
            remedy="Write ids as text or as whole numbers.",
        )
    return without_point(unicodedata.normalize("NFC", str(value).strip()))


def is_missing(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    """Whether a cell is empty: null, not a number, or blank."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, str) and not value.strip())


def without_point(label: str) -> str:
    """Returns a label or an id without the ".0" that spreadsheets and data frames put behind a number."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", label)


def _is_whole(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    """Whether a number with a point has nothing behind it."""
    if isinstance(value, Decimal):
        return value.is_finite() and value == value.to_integral_value()
    return isinstance(value, float) and value.is_integer()


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever a file holds
    """Returns a value as a file of JSON has it, or nothing where it may be long."""
    return f" ({json.dumps(value)})" if value is None or isinstance(value, bool | float) else ""


def _as_text(value: Any) -> str:  # noqa: ANN401 - whatever a file holds
    if isinstance(value, bool):
        return f'Write it as text, in quotes: "{json.dumps(value)}".'
    if _is_whole(value):
        return f"Write whole numbers without a point: {int(value)}."
    return "Write one label, as text, for each record."
