"""What is kept of a file is what the file holds: any change of it is seen, and no change is not read again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hortus.client.site.reread import Reread


class Counted(Reread[str]):
    """Counts how often it reads, and reads a folder as the texts of its files."""

    def __init__(self, path: Path) -> None:
        self.reads = 0
        super().__init__(path, self._read)

    def _read(self, path: Path) -> str:
        self.reads += 1
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return ",".join(file.read_text() for file in files if file.is_file())


def settle(folder: Path) -> None:
    """Makes every file as old as one that nobody is writing any more: its change time cannot be set."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a").write_text("one")
    settle(tmp_path)
    later = 2e9 + 1e9
    monkeypatch.setattr("hortus.client.site.reread.time.time", lambda: later)
    return tmp_path


CHANGES: dict[str, Callable[[Path], object]] = {
    "written to": lambda folder: (folder / "a").write_text("two"),
    "replaced": lambda folder: (
        (folder / "b").write_text("two"),
        (folder / "b").replace(folder / "a"),
    ),
    "replaced by one as old": lambda folder: (
        (folder / "b").write_text("two"),
        os.utime(folder / "b", (1e9, 1e9)),
        (folder / "b").replace(folder / "a"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_is_read_again_when_it_has_changed_and_not_before(folder: Path, change: str) -> None:
    kept = Counted(folder / "a")
    assert [kept(), kept(), kept.reads] == ["one", "one", 1]
    CHANGES[change](folder)
    assert [kept(), kept(), kept.reads] == ["two", "two", 2]


def test_of_a_folder_every_file_counts(folder: Path) -> None:
    kept = Counted(folder)
    assert kept() == "one"
    (folder / "deep").mkdir()
    (folder / "deep" / "b").write_text("two")
    assert kept() == "one,two"
    (folder / "a").unlink()
    assert (kept(), kept.reads) == ("two", 3)


def test_a_file_that_was_written_just_now_is_read_once_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (folder / "a").write_text("new")
    kept = Counted(folder / "a")
    assert [kept(), kept(), kept.reads] == ["new", "new", 2]


def test_a_file_that_changes_while_it_is_read_is_read_again(folder: Path) -> None:
    class Racing(Counted):
        def _read(self, path: Path) -> str:
            text = super()._read(path)
            if self.reads == 1:
                path.write_text("changed meanwhile")
            return text

    assert Racing(folder / "a")() == "changed meanwhile"


def test_a_file_that_is_not_there_is_an_error_each_time(tmp_path: Path) -> None:
    kept = Counted(tmp_path / "none")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            kept()
