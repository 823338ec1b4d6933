"""SQLite files of another process, read without leaving a trace beside them."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

_BUSY_SECONDS = 30.0


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
