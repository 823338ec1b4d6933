"""What SQLite could not do is told apart, and a disk is called full only where it is."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hortus.runtime.databases import remedy_for, write_sqlite


def _make(path: Path) -> None:
    with closing(write_sqlite(path)) as connection, connection:
        connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO numbers VALUES (1)")


def _twice(path: Path) -> None:
    with closing(write_sqlite(path)) as connection, connection:
        connection.execute("INSERT INTO numbers VALUES (1)")


def _full(path: Path) -> None:
    with closing(write_sqlite(path)) as connection, connection:
        connection.execute("PRAGMA max_page_count = 2")
        for number in range(2, 2000):
            connection.execute("INSERT INTO numbers VALUES (?)", (number,))


def _read_only(path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("INSERT INTO numbers VALUES (2)")


def _busy(path: Path) -> None:
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as other,
        closing(sqlite3.connect(path, timeout=0)) as connection,
    ):
        other.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO numbers VALUES (2)")


def _no_folder(path: Path) -> None:
    write_sqlite(path.parent / "missing" / "run.sqlite").close()


def _no_database(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    write_sqlite(path).close()


def _damaged(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    data = bytearray(path.read_bytes())
    data[100:600] = b"\xff" * 500
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM numbers").fetchall()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_twice, "Another process has written to it"),
        (_full, "The disk is full"),
        (_read_only, "read-only"),
        (_busy, "Another process holds it"),
        (_no_folder, "Is its folder there"),
        (_no_database, "or not Hortus"),
        (_damaged, "The file is damaged"),
    ],
)
def test_each_error_has_its_own_remedy(
    tmp_path: Path, fault: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "run.sqlite"
    _make(path)
    with pytest.raises(sqlite3.Error) as raised:
        fault(path)
    remedy = remedy_for(raised.value, path)
    assert said in remedy
    assert ("full" in remedy) == (fault is _full)
