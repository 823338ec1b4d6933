import csv
import datetime
import json
import random
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.learning.data.records import (
    read_ids,
    read_records,
    read_units,
    record_bytes,
)
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import labelled, labels_of, texts_of

TASK = TextClassification(labels=("billing", "referral", "refill"))
SECRET = "Anna Nowak has a rash"
ROWS: list[dict[str, Any]] = [
    {"id": "1", "text": SECRET, "label": "referral"},
    {"id": "2", "text": 'a "quoted",\nlonger text', "label": "billing"},
    {"id": "3", "text": "żółć\u2028\x85\x0c next", "label": "refill"},
]

Writer = Callable[[Path, list[dict[str, Any]]], Path]


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "records.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "records.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_datasets(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets = pytest.importorskip("datasets")
    path = folder / "records"
    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


every_format = pytest.mark.parametrize(
    "write", [write_csv, write_jsonl, write_parquet, write_datasets]
)


def failure(path: Path, task: TextClassification = TASK) -> str:
    """The error's text, after looking that it quotes no record."""
    with pytest.raises(UsageError) as caught:
        read_records(path, task)
    message = str(caught.value)
    assert "Anna" not in message
    assert str(path) in message
    return message


@every_format
def test_every_format_gives_the_same_records(write: Writer, tmp_path: Path) -> None:
    records = read_records(write(tmp_path, ROWS), TASK)
    assert texts_of(records) == tuple(row["text"] for row in ROWS)
    assert labels_of(records) == [1, 0, 2]
    reference = read_records(write_jsonl(tmp_path, ROWS), TASK)
    assert list(record_bytes(records)) == list(record_bytes(reference))


@every_format
def test_a_label_outside_the_list_is_named_with_its_row_and_a_guess(
    write: Writer, tmp_path: Path
) -> None:
    rows = [ROWS[0], {"id": "4", "text": SECRET, "label": "bling"}]
    message = failure(write(tmp_path, rows))
    assert "'bling'" in message
    assert "'billing'" in message
    first = {write_csv: "line 3", write_jsonl: "line 2"}.get(write, "row 2")
    assert f"{first}, column" in message


@every_format
def test_a_missing_column_is_named_with_those_there_are(write: Writer, tmp_path: Path) -> None:
    rows = [{"texts": SECRET, "label": "billing"}]
    message = failure(write(tmp_path, rows))
    assert "Did you mean 'texts'?" in message
    assert "'label'" in message


@every_format
@pytest.mark.parametrize("empty", ["", " \t\n"])
def test_an_empty_text_is_named_by_row(write: Writer, tmp_path: Path, empty: str) -> None:
    rows = [ROWS[0], {"id": "5", "text": empty, "label": "billing"}]
    assert "the text is empty" in failure(write(tmp_path, rows))


@pytest.mark.parametrize("value", [None, 7, ["list"], True])
def test_a_text_that_is_no_string_is_refused(tmp_path: Path, value: Any) -> None:
    assert "empty" in failure(write_jsonl(tmp_path, [{"text": value, "label": "billing"}]))


def test_numbers_are_labels_where_the_plan_lists_them(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    task = TextClassification(labels=("0", "1"))
    assert labels_of(read_records(write_parquet(tmp_path, rows), task)) == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "no records"),
        ("a.csv", b"text,label\n", "no records"),
        ("a.jsonl", b"\n\n", "no records"),
        ("a.csv", b"text,label\nok,billing\nAnna \xff,billing\n", "line 3: byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"text": "\xe9"}', "line 1: byte 0xe9 is not UTF-8"),
        ("a.csv", b"text,label\nAnna,billing,more\n", "line 2: the row has not 2 fields"),
        ("a.csv", b"text,label\nAnna\n", "line 2: the row has not 2 fields"),
        ("a.csv", b'text,label\n"Anna,billing\nb,billing\n', "malformed CSV"),
        ("a.csv", b"text,label,text\nAnna,billing,b\n", "'text' comes twice"),
        ("a.jsonl", b'{"text": "b", "label": "billing"}\n{"text": Anna}', "line 2, column 10"),
        ("a.jsonl", b'["Anna"]', "line 1: the line is not a JSON object"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: a number is too long"),
        ("a.jsonl", b'{"text": ' + b"[" * 200_000, "nesting too deep"),
        ("a.jsonl", rb'{"text": "Anna \ud800", "label": "billing"}', "half a surrogate pair"),
        ("a.parquet", b"Anna", "malformed Parquet"),
        ("a.txt", b"", "'.txt' are not read"),
    ],
)
def test_a_broken_file_is_explained(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert told in failure(path)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    assert "no such file" in failure(tmp_path / "nowhere.csv")


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nhello,billing\r\n")
    assert texts_of(read_records(path, TASK)) == ("hello",)


def test_without_the_datasets_library_the_remedy_is_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in failure(tmp_path)


def test_class_labels_of_the_datasets_library_go_by_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["refill", "billing"])
    )
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "c", "label": -1}]
    path = tmp_path / "named"
    datasets.Dataset.from_list(rows[:2], features=features).save_to_disk(str(path))
    assert labels_of(read_records(path, TASK)) == [2, 0]
    unknown = tmp_path / "unknown"
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(unknown))
    assert "row 3, column 'label': there is no label" in failure(unknown)
    minus_one = TextClassification(labels=("-1", "refill", "billing"))
    assert "there is no label" in failure(unknown, minus_one)


def test_a_folder_of_several_datasets_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "splits"
    split = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=split, test=split).save_to_disk(str(path))
    assert str(path / "train") in failure(path)
    assert len(read_records(path / "train", TASK)) == len(ROWS)


def test_a_plan_cannot_make_old_records_look_new(tmp_path: Path) -> None:
    """A budget goes by the fingerprint: labels in another order must not start a fresh one."""
    rows = [row | {"note": "seen", "kind": "refill"} for row in ROWS]
    path = write_csv(tmp_path, rows)
    tasks = (
        TASK,
        TextClassification(labels=tuple(reversed(TASK.labels))),
        TextClassification(labels=(*TASK.labels, "other")),
        TextClassification(labels=TASK.labels, text="note"),
        TextClassification(labels=TASK.labels, label="kind"),
    )
    assert len({tuple(record_bytes(read_records(path, task))) for task in tasks}) == 1


def test_records_that_differ_in_any_column_are_told_apart(tmp_path: Path) -> None:
    seen = set()
    for column in ROWS[0]:
        changed = [ROWS[0] | {column: "billing"}]
        (record,) = record_bytes(read_records(write_jsonl(tmp_path, changed), TASK))
        seen.add(record)
    assert len(seen) == len(ROWS[0])


def test_columns_of_any_kind_have_one_form(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "billing", "day": datetime.date(2026, 1, 2), "scan": b"\x00\xff"}
    ]
    first = read_records(write_parquet(tmp_path, rows), TASK)
    assert list(record_bytes(first)) == list(
        record_bytes(read_records(tmp_path / "records.parquet", TASK))
    )


def test_taken_records_keep_their_rows(tmp_path: Path) -> None:
    records = read_records(write_csv(tmp_path, ROWS), TASK)
    taken = records.take(np.array([2, 0]))
    assert texts_of(taken) == (ROWS[2]["text"], ROWS[0]["text"])
    assert labels_of(taken) == [2, 1]
    assert taken.rows == (records.rows[2], records.rows[0])
    assert texts_of(labelled(("a", "b"), np.array([0, 1])).take(np.array([1]))) == ("b",)


def test_a_column_is_read_as_strings(tmp_path: Path) -> None:
    assert read_ids(write_csv(tmp_path, ROWS), "id") == ["1", "2", "3"]
    with pytest.raises(UsageError, match="no column 'site'"):
        read_ids(tmp_path / "records.csv", "site")


def test_units_are_read_whatever_form_their_ids_have(tmp_path: Path) -> None:
    ids: list[Any] = ["7", 7, 7.0, " 7\t", "8", "Anna", "7.0", "7.00"]
    rows = [{"text": "a", "label": "billing", "patient": i} for i in ids]
    records = read_records(write_jsonl(tmp_path, rows), TASK, "patient")
    assert records.units == ("7", "7", "7", "7", "8", "Anna", "7", "7")
    assert records.unit_index().tolist() == [0, 0, 0, 0, 1, 2, 0, 0]
    assert records.take(np.array([5, 0, 1])).unit_index().tolist() == [1, 0, 0]
    alone = read_records(tmp_path / "records.jsonl", TASK)
    assert alone.unit_index().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_an_id_is_the_same_in_every_format(tmp_path: Path) -> None:
    """A column of whole numbers with a gap in it is written as floats, by some as decimals."""
    plain = [{"text": "a", "label": "billing", "patient": i} for i in ("7", "-3", "12")]
    expected = read_records(write_csv(tmp_path, plain), TASK, "patient").units
    floats = [row | {"patient": float(row["patient"])} for row in plain]
    decimals = [
        row | {"patient": Decimal(row["patient"]).quantize(Decimal("0.00"))} for row in plain
    ]
    written: list[tuple[Writer, list[dict[str, Any]]]] = [
        (write_csv, floats),
        (write_jsonl, floats),
        (write_parquet, floats),
        (write_parquet, decimals),
    ]
    for write, rows in written:
        assert read_records(write(tmp_path, rows), TASK, "patient").units == expected


def test_a_name_is_the_same_however_its_accents_are_composed(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "Zoë Åström") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    rows = [{"text": "a", "label": "billing", "patient": name} for name in names]
    assert len(set(read_records(write_csv(tmp_path, rows), TASK, "patient").units)) == 1


def test_what_may_tell_people_apart_is_kept(tmp_path: Path) -> None:
    ids = ["007", "7", "anna", "Anna", "A 1", "A  1", "7.5", "7e0", "0x7"]
    rows = [{"text": "a", "label": "billing", "patient": i} for i in ids]
    assert read_records(write_csv(tmp_path, rows), TASK, "patient").units == tuple(ids)


def test_rows_and_units_are_read_without_a_plan_as_with_one(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "billing", "patient": i} for i in (" 7", "Anna", "7.0")]
    path = write_csv(tmp_path, rows)
    records = read_records(path, TASK, "patient")
    assert read_units(path, "patient") == (list(records.rows), list(records.units))
    assert read_units(path, None) == (list(records.rows), [])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "is missing"),
        ("", "is missing"),
        (" \t", "is missing"),
        (float("nan"), "is missing"),
        (True, "a bool is no id"),
        (1.5, "a float is no id"),
        (["Anna"], "a list is no id"),
    ],
)
def test_an_id_that_is_none_is_named_by_row_and_not_quoted(
    tmp_path: Path, value: Any, told: str
) -> None:
    rows = [{"text": "a", "label": "billing", "patient": i} for i in ("Anna", value)]
    path = write_jsonl(tmp_path, rows)
    with pytest.raises(UsageError, match=told) as caught:
        read_records(path, TASK, "patient")
    assert "line 2, column 'patient'" in str(caught.value)
    assert "Anna" not in str(caught.value)


def test_units_are_told_apart_by_every_character(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "billing", "patient": i} for i in ("a\0", "a", "b" * 10**6, "a\0")
    ]
    records = read_records(write_jsonl(tmp_path, rows), TASK, "patient")
    assert records.unit_index().tolist() == [1, 0, 2, 1]


def test_a_letter_of_many_pages_is_a_text(tmp_path: Path) -> None:
    rows = [{"text": "word " * 50_000, "label": "billing"}]
    assert texts_of(read_records(write_csv(tmp_path, rows), TASK)) == (rows[0]["text"],)


def test_a_file_that_cannot_be_read_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write_csv(tmp_path, ROWS)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        read_records(path, TASK)


def test_a_missing_unit_column_is_named(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "billing", "patient": "1"}]
    with pytest.raises(UsageError, match="no column 'patient_id'.*Did you mean 'patient'?"):
        read_records(write_jsonl(tmp_path, rows), TASK, "patient_id")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(deadline=None)
@given(
    texts=st.lists(texts, min_size=1, max_size=5), write=st.sampled_from([write_csv, write_jsonl])
)
def test_any_text_comes_back_as_it_was(
    texts: list[str], write: Writer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = write(folder, [{"text": text, "label": "billing"} for text in texts])
    assert texts_of(read_records(path, TASK)) == tuple(texts)


def test_a_spoiled_file_is_read_or_refused(tmp_path: Path) -> None:
    """One byte changed, anywhere: never a traceback."""
    chance = random.Random(5)
    for write in (write_csv, write_jsonl, write_parquet):
        path = write(tmp_path, ROWS)
        whole = path.read_bytes()
        for _ in range(100):
            spoiled = bytearray(whole)
            spoiled[chance.randrange(len(whole))] = chance.randrange(256)
            path.write_bytes(spoiled)
            with suppress(UsageError):
                read_records(path, TASK)


def test_a_file_may_not_fill_the_disk_with_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(tmp_path, ROWS)
    monkeypatch.setattr("hortus.learning.data.records.MOST_ROWS", len(ROWS))
    assert len(read_records(path, TASK)) == len(ROWS)
    monkeypatch.setattr("hortus.learning.data.records.MOST_ROWS", len(ROWS) - 1)
    for read in (lambda: read_records(path, TASK), lambda: read_units(path, None)):
        with pytest.raises(UsageError, match="more than 2 rows"):
            read()
