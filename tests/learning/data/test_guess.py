"""Columns are told from files only where one is meant; else the message names them."""

from pathlib import Path
from typing import Any

import pytest

from hortus.learning.data.guess import Columns, Rows, collect_labels, guess_columns, units_of
from hortus.runtime.errors import UsageError

SHORT, LONG = "my card", "my card has not arrived yet, and nobody can tell me why that is so"


def table(*rows: dict[str, Any]) -> dict[Path, Rows]:
    return {Path("ash.csv"): [(f"line {n}", row) for n, row in enumerate(rows, start=2)]}


def repeated(columns: dict[str, list[Any]]) -> dict[Path, Rows]:
    """A table of twelve rows: values come round."""
    return table(
        *({name: given[i % len(given)] for name, given in columns.items()} for i in range(12))
    )


IDS = [f"id{i}" for i in range(12)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": [SHORT, LONG], "label": ["a", "b"]}, ("text", "label")),
        ({"Text": [SHORT, LONG], "Category": ["a", "b"]}, ("Text", "Category")),
        ({"id": IDS, "note": [LONG], "kind": ["a", "b"]}, ("note", "kind")),
        ({"query": [LONG, SHORT], "intent": [1, 2, 3], "n": [0.5, 1.5]}, ("query", "intent")),
        ({"title": [SHORT], "body": [LONG], "stars": [1, 2, 3, 4, 5]}, ("body", "stars")),
        ({"文": ["卡片还没有到", "我的银行卡丢了"], "类": ["丢失", "迟到"]}, ("文", "类")),
        ({"text": [LONG], "source": ["web", "app"], "topic": ["a", "b"]}, ("text", "topic")),
        ({"text": [LONG] * 11 + [None], "label": ["a", "b"]}, ("text", "label")),
    ],
)
def test_columns_are_told_where_one_is_meant(
    columns: dict[str, list[Any]], expected: tuple[str, str]
) -> None:
    assert guess_columns(repeated(columns)) == Columns(*expected)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"question": [LONG], "comment": [LONG], "label": ["a", "b"]}, "may hold the text"),
        ({"summary": [LONG], "report": [LONG + SHORT], "label": ["a", "b"]}, "--text COLUMN"),
        ({"code": ["x1", "x2"], "label": ["a", "b"]}, "no column looks like the text"),
        ({"text": [LONG], "ward": ["a", "b"], "sex": ["f", "m"]}, "'ward' or 'sex' may hold the"),
        ({"text": [LONG], "id": IDS}, "no column looks like the label"),
        ({"text": [LONG], "score": [0.5, 1.5]}, "no column looks like the label"),
        ({"text": [LONG], "label": ["same"]}, "--label COLUMN"),
        ({"text": [LONG], "class": ["a", "b"], "topic": ["c", "d"]}, "'class' or 'topic'"),
    ],
)
def test_a_message_names_the_columns_where_none_or_several_are_meant(
    columns: dict[str, list[Any]], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        guess_columns(repeated(columns))
    assert told in str(caught.value)
    assert all(repr(name) in str(caught.value) for name in columns)


def test_what_is_said_counts_and_the_unit_is_neither() -> None:
    columns = {"text": [LONG], "reply": [LONG], "patient": ["p", "q"], "outcome": ["x", "y"]}
    rows = repeated(columns)
    assert guess_columns(rows, "reply", None, "patient") == Columns("reply", "outcome")
    assert guess_columns(rows, "reply", "patient") == Columns("reply", "patient")


def test_a_column_that_one_file_lacks_is_not_meant() -> None:
    whole = repeated({"text": [LONG], "label": ["a", "b"], "topic": ["c", "d"]})
    other = {Path("birch.csv"): repeated({"text": [LONG], "topic": ["c", "d"]})[Path("ash.csv")]}
    assert guess_columns(whole | other) == Columns("text", "topic")


def test_labels_are_collected_from_all_files_as_a_plan_writes_them() -> None:
    rows = table({"label": 2}, {"label": "10"}, {"label": "e\u0301"})
    assert collect_labels(rows, "label") == ("10", "2", "\u00e9")
    for wrong in (None, 1.5, True, "  "):
        with pytest.raises(UsageError, match="line 3, column 'label'"):
            collect_labels(table({"label": "a"}, {"label": wrong}), "label")
    with pytest.raises(UsageError, match="1 different labels"):
        collect_labels(table({"label": "a"}), "label")


def test_units_are_counted_by_whose_records_they_are() -> None:
    path = Path("ash.csv")
    rows = table({"patient": "7"}, {"patient": "7.0"}, {"patient": 8})[path]
    assert units_of(path, rows, "patient") == {"7": 2, "8": 1}
    with pytest.raises(UsageError, match="line 2, column 'patient'"):
        units_of(path, table({"patient": None})[path], "patient")
