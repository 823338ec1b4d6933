from pathlib import Path
from typing import Any

import pytest

from hortus.learning.data.survey import MOST_VALUES, Survey, counted, read_fitting, survey
from hortus.learning.data.view import AS_IT_IS, View
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.learning.data.test_records import Writer, every_format, write_jsonl

TASK = TextClassification(labels=("a", "b"))
ROWS: list[dict[str, Any]] = [
    {"text": "Anna has a rash", "label": "a", "patient": "7"},
    {"text": "of the arm", "label": "b", "patient": "8"},
    {"text": "Anna has a rash", "label": "a", "patient": "7"},
    {"text": "", "label": "c", "patient": "7"},
]


@every_format
def test_a_file_is_counted_and_not_quoted(write: Writer, tmp_path: Path) -> None:
    found = survey(write(tmp_path, ROWS))
    assert (found.rows, found.duplicates) == (4, 1)
    text, label, _ = found.columns
    assert (text.missing, text.different, text.most_characters) == (1, 2, 15)
    assert text.mean_characters == pytest.approx(40 / 3)
    assert (label.kinds, label.different, label.missing) == ({"text": 4}, 3, 0)
    assert "Anna" not in repr(found)


def test_a_cell_that_only_some_rows_have_is_missing_in_others(tmp_path: Path) -> None:
    rows = [{"a": None, "b": [1]}, {"a": 2.5}, {"a": True, "b": {"c": 1}}, {"a": float("nan")}]
    a, b = survey(write_jsonl(tmp_path, rows)).columns
    assert (a.kinds, a.missing) == ({"number": 1, "truth value": 1}, 2)
    assert (b.kinds, b.missing, b.different) == ({"list": 1, "object": 1}, 2, 2)


def test_no_more_values_are_remembered_than_are_told(tmp_path: Path) -> None:
    counts = (MOST_VALUES, MOST_VALUES + 1)
    found: list[Survey] = [
        survey(write_jsonl(tmp_path, [{"n": n} for n in range(count)])) for count in counts
    ]
    assert [one.columns[0].different for one in found] == [MOST_VALUES, None]
    with pytest.raises(UsageError, match="no records"):
        survey(write_jsonl(tmp_path, []))


def test_what_does_not_fit_is_noted_with_its_line_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "x", "label": "a", "patient": None}] + [{"text": "y", "label": "A", "patient": 1}] * 9  # fmt: skip
    path = write_jsonl(tmp_path, rows)
    found = read_fitting(path, TASK, "patient", AS_IT_IS)
    assert [value.text for value in found.values] == [row["text"] for row in ROWS[:3]]
    assert found.units == ["7", "8", "7"]
    assert found.unfit == 11
    assert [one.where.rpartition("line ")[2] for one in found.faults if one.where] == [
        "4, column 'text'",
        "5, column 'patient'",
        *(f"{n}, column 'label'" for n in (6, 7, 8)),
    ]


def test_a_column_that_is_not_there_ends_it(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, ROWS)
    with pytest.raises(UsageError, match="'query', which is to be the plan's 'text'"):
        read_fitting(path, TASK, None, View({"text": "query"}))


def test_words_are_counted_in_cells_and_in_lists_and_numbers_are_not() -> None:
    rows = [
        {"label": "a", "tags": ["x", "y", "x"], "start": 7},
        {"label": "b", "tags": ["x"], "start": 8},
        {"label": "b", "tags": [], "start": 9},
    ]
    assert counted(rows, ["label", "tags", "start", "none"]) == {
        "label": {"b": 2, "a": 1},
        "tags": {"x": 3, "y": 1},
    }
