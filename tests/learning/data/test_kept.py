import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hortus.learning.data.kept import OnDisk, keep, picked
from hortus.learning.data.records import RowCodec
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.tasks.texts import LabelledText
from hortus.runtime.errors import HortusError

ITEMS = [LabelledText("żółć\u2028" * (1 + n % 7), n % 3) for n in range(50)]
CODEC = RowCodec(TextClassification(labels=("a", "b", "c")))


@pytest.mark.parametrize("most", [0, 300, 2**20])
def test_what_is_kept_is_what_was_given_wherever_it_lies(most: int) -> None:
    kept = keep(iter(ITEMS), CODEC, most)
    assert isinstance(kept, tuple) == (most == 2**20)
    assert list(kept) == ITEMS
    assert len(kept) == len(ITEMS)
    assert kept[-1] == ITEMS[-1]
    assert list(kept[3:11:2]) == ITEMS[3:11:2]
    with pytest.raises(IndexError):
        kept[50]


@pytest.mark.parametrize("most", [0, 2**20])
def test_some_of_what_is_kept_is_picked_again_and_again(most: int) -> None:
    some = picked(keep(ITEMS, CODEC, most), np.array([7, 3, 3]))
    assert list(some) == [ITEMS[7], ITEMS[3], ITEMS[3]]
    again = picked(some, np.array([2, 0]))
    assert list(again) == [ITEMS[3], ITEMS[7]]
    assert list(again[:1]) == [ITEMS[3]]
    assert again[-1] == ITEMS[7]


def test_threads_read_at_once() -> None:
    kept = keep(ITEMS * 40, CODEC, 0)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(kept.__getitem__, range(2000))) == ITEMS * 40


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = keep(ITEMS, CODEC, 0)
    assert isinstance(kept, OnDisk)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no full device")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: full.open("wb", buffering))
    with pytest.raises(HortusError, match="No space left") as caught:
        keep((LabelledText("x" * 2**12, 0) for _ in range(2**10)), CODEC, 0)
    assert "TMPDIR" in str(caught.value)
