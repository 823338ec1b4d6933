"""SQLite files: written durably, or read beside a writer without leaving a trace."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from hortus.runtime.surroundings import out_of_files

_BUSY_SECONDS = 30.0
_MOST_TRIES = 20

Content = TypeVar("Content")


def read_snapshot(path: Path, read: Callable[[sqlite3.Connection], Content]) -> Content:
    """Reads a database as it was at one moment, while somebody else may be writing it.

    Args:
        path: The database.
        read: Reads everything that is wanted, in one go.

    Raises:
        sqlite3.Error: It cannot be read, or never holds still.
    """
    for _ in range(_MOST_TRIES):
        before = _state(path)
        try:
            with closing(read_sqlite(path)) as connection:
                connection.execute("BEGIN")
                content = read(connection)
        except sqlite3.Error:
            # Whoever opened it meanwhile has made an error of it, which the next reading will not see.
            if before == _state(path):
                raise
        else:
            # With a log, SQLite sees to it; without one, nobody may have begun to write.
            if before[0] or before == _state(path):
                return content
    raise sqlite3.OperationalError("other programs open and close it all the time")


def _state(path: Path) -> tuple[bool, int, int, int]:
    """Whether there is a write-ahead log; and which file it is, and of which state."""
    file = path.stat()
    return _log(path).exists(), file.st_ino, file.st_mtime_ns, file.st_size


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


# What any statement may raise on a damaged file; the second, if a name or a text in it is not UTF-8.
DAMAGED = (sqlite3.Error, UnicodeDecodeError)


def remedy_for(error: Exception, path: Path) -> str:
    """Returns what can be done about an error of SQLite: a full disk is named only where one is.

    Args:
        error: What was raised.
        path: The database.
    """
    if (limit := out_of_files()) is not None:
        return limit
    code = getattr(error, "sqlite_errorcode", None)
    known = None if code is None else _REMEDIES.get(code & 0xFF)
    # A write-ahead log that cannot grow is an input/output error to SQLite.
    if code == sqlite3.SQLITE_FULL or (known is None and _is_full(path)):
        return "The disk is full: make room. Finished work is kept; run the same command again to resume."
    return known or "If the file is damaged, restore it from a backup."


_REMEDIES = {
    sqlite3.SQLITE_READONLY: "The file, its folder or the disk is read-only for this user.",
    sqlite3.SQLITE_PERM: "This user may not open the file.",
    sqlite3.SQLITE_CANTOPEN: "Is its folder there, may this user write to it, or is the disk read-only?",
    sqlite3.SQLITE_BUSY: "Another process holds it: stop that one first.",
    sqlite3.SQLITE_LOCKED: "Another process holds it: stop that one first.",
    sqlite3.SQLITE_CONSTRAINT: "Another process has written to it in the meantime: run only one in a folder.",
    sqlite3.SQLITE_NOTADB: "The file is damaged, or not Hortus's: restore it from a backup.",
    sqlite3.SQLITE_CORRUPT: "The file is damaged: restore it from a backup.",
}
_ROOM = 2**16  # bytes that any commit needs


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _ROOM
    except OSError:
        return False


def write_sqlite(path: Path) -> sqlite3.Connection:
    """Opens a database, made if it is not there; a transaction is on disk when it is committed.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def read_sqlite(path: Path) -> sqlite3.Connection:
    """Opens a database read-only, while somebody else may be writing it.

    If there is no write-ahead log, no process has the database open, so it is read as an immutable file; otherwise
    SQLite would create a log that the writer might not be allowed to use. If somebody writes meanwhile, the read
    fails or mixes old and new rows; read again on a change.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    query = "mode=ro" if _log(path).exists() else "mode=ro&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?{query}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
