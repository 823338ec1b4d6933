import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.learning.data.records import read_ids, read_records, record_bytes
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import labels_of, texts_of

TASK = TextClassification(labels=("warm", "fresh", "cool"))
ROWS = [
    {"text": "die Sonne, „heiß“", "label": "warm", "ward": "A 1"},
    {"text": "a\nbreak", "label": "cool", "ward": "B"},
    {"text": 'say "ice"', "label": "cool", "ward": "A 1"},
]


def write(path: Path) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        lines = ["text,label,ward"]
        for row in ROWS:
            quoted = row["text"].replace('"', '""')
            lines.append(f'"{quoted}",{row["label"]},{row["ward"]}')
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        datasets.Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.parquet", "folder"])
def test_every_format_gives_the_same_records(tmp_path: Path, name: str) -> None:
    records = read_records(write(tmp_path / name), TASK)
    assert texts_of(records) == tuple(row["text"] for row in ROWS)
    assert labels_of(records) == [0, 2, 2]
    assert read_ids(tmp_path / name, "ward") == ["A 1", "B", "A 1"]


def test_the_canonical_bytes_tell_records_apart_whatever_the_format(tmp_path: Path) -> None:
    forms = [
        list(record_bytes(read_records(write(tmp_path / name), TASK)))
        for name in ("r.csv", "r.jsonl")
    ]
    assert forms[0] == forms[1]
    assert len(set(forms[0])) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", r"\.txt.*are not read"),
        ("a.parquet", b"PAR1 not really", "malformed Parquet"),
        ("a.jsonl", b"[1, 2]\n", "not a JSON object"),
        ("a.csv", b"", "no records"),
        ("a.csv", b"text,label\na\n", "has not 2 fields"),
    ],
)
def test_a_file_that_is_none_is_explained(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_records(tmp_path / name, TASK)


def test_a_folder_that_is_no_dataset_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not one of the datasets library"):
        read_records(tmp_path, TASK)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path_factory.mktemp("fuzz") / f"f{suffix}"
        path.write_bytes(content)
        with pytest.raises(UsageError):
            read_records(path, TASK)


def test_taking_some_keeps_text_and_label_together(tmp_path: Path) -> None:
    taken = read_records(write(tmp_path / "r.csv"), TASK).take(np.array([2, 0]))
    assert texts_of(taken) == (ROWS[2]["text"], ROWS[0]["text"])
    assert labels_of(taken) == [2, 0]
