import json
import random
from pathlib import Path

import pytest

from hortus.learning.data.split import is_held_out, split
from hortus.runtime.errors import UsageError
from tests.learning.data.test_records import Writer, every_format, write_jsonl

ROWS = [{"text": f"text {n}", "patient": f"p{n // 5}"} for n in range(400)]


def held(folder: Path, rows: list[dict[str, str]], unit: str | None, key: str, share: float = 0.25) -> set[str]:  # fmt: skip
    path = write_jsonl(folder, rows)
    kept, out = folder / "kept.jsonl", folder / "out.jsonl"
    parts = split(path, unit, share, key, kept, out)
    found = [[json.loads(line)["text"] for line in file.open()] for file in (kept, out)]
    assert sorted(found[0] + found[1]) == sorted(row["text"] for row in rows)
    assert list(parts) == [len(one) for one in found]
    return set(found[1])


def test_the_order_of_rows_changes_nothing_and_the_key_does(tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    first = held(tmp_path, ROWS, None, "a")
    assert first == held(tmp_path, shuffled, None, "a")
    assert first != held(tmp_path, ROWS, None, "b")
    assert 60 <= len(first) <= 140


def test_a_row_keeps_its_side_when_others_come(tmp_path: Path) -> None:
    later = [*ROWS, *({"text": f"new {n}", "patient": "q"} for n in range(50))]
    first, second = held(tmp_path, ROWS, None, "a"), held(tmp_path, later, None, "a")
    assert first == {text for text in second if text.startswith("text")}


def test_a_larger_share_holds_all_of_a_smaller_one(tmp_path: Path) -> None:
    assert held(tmp_path, ROWS, None, "a", 0.1) < held(tmp_path, ROWS, None, "a", 0.5)


def test_a_unit_stays_whole(tmp_path: Path) -> None:
    out = held(tmp_path, ROWS, "patient", "a")
    patients = {row["patient"] for row in ROWS if row["text"] in out}
    assert out == {row["text"] for row in ROWS if row["patient"] in patients}


@every_format
def test_the_format_changes_nothing(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    split(path, None, 0.25, "a", tmp_path / "k", tmp_path / "h")
    assert {json.loads(line)["text"] for line in (tmp_path / "h").open()} == held(tmp_path, ROWS, None, "a")  # fmt: skip


def test_a_side_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all 2 rows fall on one side"):
        held(tmp_path, ROWS[:2], None, "a", 0.001)


def test_as_many_are_held_out_as_asked() -> None:
    for share in (0.01, 0.2, 0.9):
        count = sum(is_held_out(str(n).encode(), share, b"k") for n in range(20_000))
        assert abs(count / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
