"""SQLite files: written durably, or read beside who writes them without leaving a trace."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

_BUSY_SECONDS = 30.0

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
    log = path.with_name(f"{path.name}-wal")
    query = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?{query}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
