"""SQLite files: written durably, or read beside who writes them without leaving a trace."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

_BUSY_SECONDS = 30.0
_MOST_TRIES = 20

Content = TypeVar("Content")


def read_snapshot(path: Path, read: Callable[[sqlite3.Connection], Content]) -> Content:
    """Reads a database that somebody else may be writing as it was at one moment.

    Args:
        path: The database.
        read: Everything that is wanted of it, in one go.

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
    raise sqlite3.OperationalError("it is opened and closed all the time")


def _state(path: Path) -> tuple[bool, int, int, int]:
    """Whether there is a write-ahead log; and which file it is, and of which state."""
    file = path.stat()
    return _log(path).exists(), file.st_ino, file.st_mtime_ns, file.st_size


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


# What a damaged file makes of any statement; the second where a name or a text in it is none.
DAMAGED = (sqlite3.Error, UnicodeDecodeError)


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
    """Opens a database that somebody else may be writing, for reading alone.

    Without a write-ahead log nobody has it open, and it is read as a file: SQLite would else make a
    log for this user, which the writer might not be allowed to use. Who may meanwhile have opened,
    changed and closed it makes an error or a mixture of before and after; read again on a change.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    query = "mode=ro" if _log(path).exists() else "mode=ro&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?{query}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
