"""A checkpoint is the one that was written, or it is not read; what a crash leaves goes."""

import hashlib
from pathlib import Path

import pytest

from hortus.runtime.errors import HortusError
from hortus.server.run.checkpoints import forget_others, forget_partial, of_round, of_sums, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def test_files_sort_as_rounds_and_sums_do(folder: Path) -> None:
    rounds = [of_round(folder, number) for number in (0, 8, 9, 98, 9_999)]
    sums = [of_sums(folder, 2, number) for number in (1, 9, 10, 100)]
    assert rounds == sorted(rounds)
    assert sums == sorted(sums)
    assert rounds[0].name == "round-00001.safetensors"
    assert not {path.name for path in rounds} & {path.name for path in sums}


@pytest.mark.parametrize("content", [b"", b"adapte", b"adapter ", b"Adapter"])
def test_another_content_is_not_read(folder: Path, content: bytes) -> None:
    path, digest = of_round(folder, 0), hashlib.sha256(b"adapter").hexdigest()
    with pytest.raises(HortusError, match="cannot be read"):
        read(path, digest)
    path.write_bytes(b"adapter")
    assert read(path, digest) == b"adapter"
    path.write_bytes(content)
    with pytest.raises(HortusError, match="the checkpoint is damaged") as caught:
        read(path, digest)
    assert caught.value.where == str(path)


def test_all_but_the_kept_are_removed_and_nothing_of_anybody_elses(folder: Path) -> None:
    kept, old, partial = of_round(folder, 3), of_round(folder, 2), of_sums(folder, 3, 1)
    half = folder / "checkpoints" / ".round-00005.safetensors.1f"
    mine = folder / "checkpoints" / "notes.txt"
    for path in (kept, old, partial, half, mine):
        path.write_bytes(b"x")
    forget_partial(folder)
    assert not half.exists()
    forget_others(folder, [kept])
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "notes.txt",
        kept.name,
    ]
