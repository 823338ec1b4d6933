import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from hortus.learning.data.records import read_records, record_bytes
from hortus.learning.data.rows import read_rows
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.tagging import TokenClassification
from hortus.runtime.errors import UsageError

TASK = TextClassification(labels=("warm", "cool"))
ROWS = [{"text": f"text {n} żółć", "label": ("warm", "cool")[n % 2]} for n in range(3000)]
LISTS = [{"tokens": ["Anna", "has", "flu"], "tags": [0, 0, 1]}, {"tokens": ["no"], "tags": [0]}]


def table(rows: list[dict[str, Any]], classes: dict[str, Any] | None = None) -> pyarrow.Table:
    made = pyarrow.Table.from_pylist(rows)
    if classes:
        said = json.dumps({"info": {"features": classes}}).encode()
        made = made.replace_schema_metadata({b"huggingface": said})
    return made


def write_file(path: Path, made: pyarrow.Table) -> Path:
    with pyarrow.ipc.new_file(path, made.schema) as writer:
        writer.write_table(made)
    return path


def write_stream(path: Path, made: pyarrow.Table) -> Path:
    with pyarrow.ipc.new_stream(path, made.schema) as writer:
        writer.write_table(made, 700)
    return path


def write_feather(path: Path, made: pyarrow.Table) -> Path:
    pyarrow.feather.write_feather(made, path, compression="zstd")
    return path


def write_parquet(path: Path, made: pyarrow.Table) -> Path:
    pyarrow.parquet.write_table(made, path)
    return path


arrows = pytest.mark.parametrize("write", [write_file, write_stream, write_feather])
Writer = Callable[[Path, pyarrow.Table], Path]


@arrows
def test_arrow_holds_the_same_records_as_parquet(write: Writer, tmp_path: Path) -> None:
    found = read_records(write(tmp_path / "a.arrow", table(ROWS)), TASK)
    same = read_records(write_parquet(tmp_path / "a.parquet", table(ROWS)), TASK)
    assert found.values == same.values
    assert list(record_bytes(found)) == list(record_bytes(same))
    assert [place for place, _ in read_rows(tmp_path / "a.arrow", ())][2999] == "row 3000"


def class_label(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


@pytest.mark.parametrize("write", [write_file, write_stream, write_parquet])
def test_classes_are_read_by_the_names_that_the_datasets_library_notes(
    write: Writer, tmp_path: Path
) -> None:
    suffix = ".parquet" if write is write_parquet else ".arrow"
    numbered = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    made = table(numbered, {"label": class_label("warm", "cool")})
    assert [one.label for one in read_records(write(tmp_path / f"a{suffix}", made), TASK).values] == [1, 0]  # fmt: skip
    tags = {"tags": {"feature": class_label("O", "B-Disease"), "_type": "List"}}
    path = write(tmp_path / f"b{suffix}", table(LISTS, tags))
    values = read_records(path, TokenClassification(entities=("Disease",))).values
    assert [value.tags for value in values] == [(0, 0, 1), (0,)]


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"info": {"features": 3}}', b'{"info": {"features": {"label": {"names": 7, "_type": "ClassLabel"}}}}'])  # fmt: skip
def test_a_note_that_says_nothing_changes_nothing(said: bytes, tmp_path: Path) -> None:
    made = table(ROWS[:2]).replace_schema_metadata({b"huggingface": said})
    assert len(read_records(write_file(tmp_path / "a.arrow", made), TASK)) == 2


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def packed(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b" + path.read_bytes())


def old_feather(path: Path) -> None:
    path.write_bytes(b"FEA1" + path.read_bytes())


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@arrows
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncated, "malformed Arrow"),
        (packed, "compressed by gzip, not Arrow"),
        (old_feather, "Feather, version 1"),
        (emptied, "malformed Arrow"),
    ],
)
def test_a_damaged_file_is_refused_in_our_words(
    write: Writer, tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    path = write(tmp_path / "a.arrow", table(ROWS[:9]))
    damage(path)
    with pytest.raises(UsageError, match=problem) as caught:
        read_records(path, TASK)
    assert str(path) in (caught.value.where or "")


def test_values_that_point_outside_are_found_before_they_are_read(tmp_path: Path) -> None:
    bad = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(b"\0\0\0\0\x40\0\0\0\x02\0\0\0"), pyarrow.py_buffer(b"ab")]
    )  # fmt: skip
    made = pyarrow.table({"text": bad, "label": ["warm", "cool"]})
    with pytest.raises(UsageError, match="malformed values"):
        read_records(write_file(tmp_path / "a.arrow", made), TASK)


def test_a_column_that_comes_twice_is_named(tmp_path: Path) -> None:
    made = table(ROWS[:2]).rename_columns(["text", "text"])
    with pytest.raises(UsageError, match="'text' comes twice"):
        read_records(write_file(tmp_path / "a.feather", made), TASK)
