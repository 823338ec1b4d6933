"""A label, an id or a site's name is never invented from a value that is none."""

import datetime
import json
import unicodedata
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from hortus.learning.data.records import read_ids, read_records
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import labels_of

# Whatever a value looks like when it is printed is a label here.
WORDS = (
    *(
        "None",
        "none",
        "nan",
        "NaN",
        "null",
        "True",
        "true",
        "1.0",
        "1",
        "0",
        "['cake']",
        "[]",
        "{}",
    ),
    *("inf", "b'cake'", "2026-11-27", "1E+1", "-1", "cake", "café"),
)
TASK = TextClassification(labels=WORDS)
NOT_LABELS: list[Any] = [
    None,
    float("nan"),
    float("inf"),
    True,
    False,
    1.0,
    1.5,
    ["cake"],
    [],
    {},
    {"cake": 1},
    "",
    " \t",
    "\u00a0",
]
LABELS: list[tuple[Any, str]] = [("None", "None"), ("nan", "nan"), (1, "1"), ("1", "1"), (-1, "-1")]


def write(folder: Path, suffix: str, values: list[Any], column: str = "label") -> Path:
    """A file whose first record is right, and whose others have the values."""
    rows = [{"text": "a text", "label": "cake", "ward": "north"} | {column: v} for v in values]
    path = folder / f"records{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".csv":
        lines = [f"{r['text']},{'' if r['label'] is None else r['label']}\n" for r in rows]
        path.write_text("text,label\n" + "".join(lines))
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ""])
@pytest.mark.parametrize("value", NOT_LABELS, ids=repr)
def test_no_label_is_made_of_what_is_none(tmp_path: Path, suffix: str, value: Any) -> None:
    if value == {} and suffix != ".jsonl":
        pytest.skip("Parquet has no object without fields")
    path = write(tmp_path, suffix, [value])
    place = "line 1" if suffix == ".jsonl" else "row 1"
    with pytest.raises(UsageError, match="no label|the label is") as caught:
        read_records(path, TASK)
    assert caught.value.where == f"{path}, {place}, column 'label'"
    assert caught.value.remedy


@pytest.mark.parametrize(
    "value",
    [
        b"cake",
        datetime.date(2026, 11, 27),
        Decimal("1.0"),
        Decimal("1.5"),
        uuid.UUID(int=1).bytes,
        datetime.time(1, 2),
    ],
    ids=repr,
)
def test_no_label_is_made_of_what_only_parquet_has(tmp_path: Path, value: Any) -> None:
    task = TextClassification(labels=tuple(dict.fromkeys((*WORDS, str(value), repr(value)))))
    with pytest.raises(UsageError, match="the label is .*, not text"):
        read_records(write(tmp_path, ".parquet", [value]), task)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ""])
@pytest.mark.parametrize(("value", "label"), LABELS)
def test_words_and_whole_numbers_are_the_labels_that_they_are(
    tmp_path: Path, suffix: str, value: Any, label: str
) -> None:
    records = read_records(write(tmp_path, suffix, [value]), TASK)
    assert labels_of(records) == [WORDS.index(label)]


def test_a_missing_label_among_others_is_named_by_its_row(tmp_path: Path) -> None:
    for suffix, place in ((".csv", "line 4"), (".jsonl", "line 3"), (".parquet", "row 3")):
        path = write(tmp_path, suffix, ["None", "nan", None, "cake"])
        with pytest.raises(UsageError, match=f"{place}, column 'label': there is no label"):
            read_records(path, TASK)


def test_whole_numbers_of_a_database_are_labels(tmp_path: Path) -> None:
    assert labels_of(read_records(write(tmp_path, ".parquet", [Decimal(1)]), TASK)) == [
        WORDS.index("1")
    ]


@pytest.mark.parametrize(
    ("value", "labels", "told", "remedy"),
    [
        (True, ("true", "false"), "a truth value (true)", '"true"'),
        (1.0, ("0", "1"), "a number with a point (1.0)", "Write whole numbers without a point: 1."),
        (None, ("None", "cake"), "no label (null)", "leave it out"),
        ("1.0", ("0", "1"), "'1.0' is not one of the plan's 2", "Did you mean '1'?"),
        ("Cakes", ("cake", "bread"), "'Cakes'", "Did you mean 'cake'?"),
        (7, ("70", "cake"), "'7'", "Did you mean '70'?"),
        (["cake"], ("cake", "bread"), "a list, not text", "one label"),
    ],
)
def test_a_value_is_told_as_the_file_has_it(
    tmp_path: Path, value: Any, labels: tuple[str, ...], told: str, remedy: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_records(write(tmp_path, ".jsonl", [value]), TextClassification(labels=labels))
    assert told in caught.value.problem
    assert remedy in (caught.value.remedy or "")


def test_an_accent_is_the_same_in_both_of_its_forms(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "café")
    assert apart != "café"
    path = write(tmp_path, ".jsonl", [apart, "café"])
    assert set(labels_of(read_records(path, TASK))) == {WORDS.index("café")}
    assert labels_of(read_records(path, TextClassification(labels=(apart, "cake")))) == [0, 0]
    with pytest.raises(ValueError, match="not distinct"):
        TextClassification(labels=("café", apart))


@pytest.mark.parametrize("label", ["", " ", "\t", "\u00a0", "\u3000"])
def test_a_plan_has_no_blank_label(label: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        TextClassification(labels=("cake", label))


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ([7, 7.0, " 7 ", "7"], {"7"}),
        (["Zoë", unicodedata.normalize("NFD", "Zoë")], {"Zoë"}),
        ([2**60, str(2**60)], {str(2**60)}),
        ([-0.0, 0], {"0"}),
        (["007", "7"], {"007", "7"}),
        (["nan", "None"], {"nan", "None"}),
    ],
)
def test_forms_of_one_id_are_one(tmp_path: Path, values: list[Any], ids: set[str]) -> None:
    path = write(tmp_path, ".jsonl", values, "ward")
    assert set(read_ids(path, "ward")) == ids
    assert set(read_records(path, TASK, "ward").units) == ids


def test_ids_of_a_database_are_ids(tmp_path: Path) -> None:
    path = write(tmp_path, ".parquet", [Decimal(70), Decimal(7)], "ward")
    assert read_ids(path, "ward") == ["70", "7"]
    ids = pyarrow.array([uuid.UUID(int=1).bytes], pyarrow.uuid())
    pyarrow.parquet.write_table(pyarrow.table({"ward": ids}), path)
    assert read_ids(path, "ward") == [str(uuid.UUID(int=1))]


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), "", " ", True, 1.5, float("inf"), 2.0**53, -(2.0**60), [7], {"a": 7}],
    ids=repr,
)
def test_no_id_is_made_of_what_is_none(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path, ".jsonl", ["Anna", value], "ward")
    for read in (lambda: read_ids(path, "ward"), lambda: read_records(path, TASK, "ward")):
        with pytest.raises(UsageError, match="line 2, column 'ward'") as caught:
            read()
        assert "Anna" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "label": "cake", "label": "1"}',
        '{"label": "cake", "text": "a", "text": "b"}',
        '{"text": "a", "label": "cake", "ward": 1, "ward": 1}',
        '{"text": "a", "label": "cake", "more": {"k": 1, "k": 2}}',
        '{"text": "a", "label": "cake", "more": [{"k": 1, "\\u006b": 2}]}',
        '{"text": "a", "label": "cake", "l\\u0061bel": "1"}',
    ],
)
def test_a_key_that_comes_twice_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"text": "a", "label": "cake"}\n' + line + "\n")
    with pytest.raises(UsageError, match="line 2: the key '.*' comes twice"):
        read_records(path, TASK)


def test_a_column_that_comes_twice_is_refused_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    table = pyarrow.table([["a"], ["cake"], ["1"]], names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(UsageError, match="the column 'label' comes twice"):
        read_records(path, TASK)
