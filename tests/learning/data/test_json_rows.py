import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from hortus.learning.data.rows import read_rows
from hortus.runtime.errors import UsageError

ROWS: list[dict[str, Any]] = [
    {"text": 'a "b", [c] {d}\n\u2028', "n": 1},
    {},
    {"list": [{"e": None}, []], "x": 1.5, "long": "ż" * 70_000},
]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path, ())]


def write(folder: Path, text: str, name: str = "a.json") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\ufeff  " + json.dumps(ROWS) + " \n\n",
        "".join(json.dumps(row) + "\n" for row in ROWS),
        "".join(json.dumps(row, indent=1) for row in ROWS),
        "[" + (" " * 200_000) + ",".join(map(json.dumps, ROWS)) + "]",
    ],
    ids=["list", "indented", "mark", "lines", "one after another", "blanks"],
)
def test_objects_are_read_from_a_list_or_one_after_another(tmp_path: Path, text: str) -> None:
    assert rows_of(write(tmp_path, text)) == ROWS
    packed = tmp_path / "b.json.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert rows_of(packed) == ROWS


@pytest.mark.parametrize(
    ("text", "problem", "place"),
    [
        ('[{"a": 1}, {"a": }]', "Expecting value", "object 2, column 7"),
        ('[{"a": 1},]', "a comma ends the list", ""),
        ('[{"a": 1} {"a": 2}]', "comma, or the list's end, is missing", "after object 1"),
        ('[{"a": 1}', "comma, or the list's end, is missing", "after object 1"),
        ('[{"a": 1},', "does not end", ""),
        ("[", "does not end", ""),
        ('[{"a": 1}] x', "more behind the list", ""),
        ('[{"a": 1}, 7]', "not a JSON object", "object 2"),
        ('{"a": [1, 2', "Expecting", "object 1"),
        ('[{"a": 1, "a": 2}]', "'a' comes twice", "object 1"),
        ('[{"a": ' + "9" * 5000 + "}]", "number is too long", "object 1"),
        ('[{"a": ' + "[" * 200_000, "nesting too deep", "object 1"),
        ("text", "Expecting value", "object 1"),
    ],
)
def test_what_is_malformed_is_named_with_its_place(
    tmp_path: Path, text: str, problem: str, place: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=problem) as caught:
        rows_of(path)
    assert (caught.value.where or "").startswith(f"{path}, {place}" if place else str(path))


def test_no_more_is_held_than_an_object_needs(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([{"text": "x" * 1000}] * 20_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path, ())) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
