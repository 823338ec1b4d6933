"""The ledger's SQLite schema."""

import sqlite3
from collections.abc import Iterator

VERSION = 3

_TABLES = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    content TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    signature BLOB NOT NULL
) STRICT;
CREATE TABLE uses (
    session TEXT NOT NULL,
    step INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (session, step, attempt)
) STRICT;
CREATE TABLE sent (
    session TEXT NOT NULL,
    step INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (session, step, attempt)
) STRICT;
CREATE TABLE reservations (
    id TEXT PRIMARY KEY,
    charge TEXT NOT NULL,
    process INTEGER NOT NULL,
    until REAL NOT NULL
) STRICT;
CREATE TABLE countersignatures (
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    time REAL NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (seq, hash)
) STRICT;
CREATE TABLE contents (
    dataset TEXT PRIMARY KEY,
    unit TEXT NOT NULL,
    key BLOB NOT NULL,
    shared TEXT NOT NULL,
    closed INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE lineages (
    number INTEGER PRIMARY KEY,
    account TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE marks (
    account INTEGER NOT NULL,
    mark BLOB NOT NULL,
    kind INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER,
    PRIMARY KEY (account, mark)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger entry is never changed'); END;
CREATE TRIGGER entries_remain BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger entry is never deleted'); END;
CREATE TRIGGER uses_stay BEFORE UPDATE ON uses
    BEGIN SELECT RAISE(ABORT, 'a use is never changed'); END;
CREATE TRIGGER uses_remain BEFORE DELETE ON uses
    BEGIN SELECT RAISE(ABORT, 'a use is never deleted'); END;
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Makes the tables in an empty file, within the caller's transaction.

    Raises:
        ValueError: The file is of another version of this program.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version:
        raise ValueError(f"the ledger has format {version}, this program reads {VERSION}")
    for statement in _statements(_TABLES):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _statements(script: str) -> Iterator[str]:
    """Splits a script; `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
