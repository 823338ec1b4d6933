"""The ledger's SQLite schema and its migrations, each in one transaction with what it changes."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping

from hortus.privacy.entries import Charge, content_1, content_hash

VERSION = 2

_VERSION_2 = """
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
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger entry is never changed'); END;
CREATE TRIGGER entries_remain BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger entry is never deleted'); END;
CREATE TRIGGER uses_stay BEFORE UPDATE ON uses
    BEGIN SELECT RAISE(ABORT, 'a use is never changed'); END;
CREATE TRIGGER uses_remain BEFORE DELETE ON uses
    BEGIN SELECT RAISE(ABORT, 'a use is never deleted'); END;
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a ledger, or an empty file, to `VERSION`, within the caller's transaction.

    Raises:
        ValueError: An entry of an older version does not have the hash of its content, or the
            version is a later program's.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version not in _MIGRATIONS:
        raise ValueError(f"the ledger has format {version}, this program reads up to {VERSION}")
    _MIGRATIONS[version](connection)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _create(connection: sqlite3.Connection) -> None:
    for statement in _statements(_VERSION_2):
        connection.execute(statement)


def _from_1(connection: sqlite3.Connection) -> None:
    """Version 1 had a column for each value of a charge; its hash was of the same canonical JSON."""
    rows = connection.execute("SELECT * FROM entries ORDER BY seq").fetchall()
    uses = connection.execute("SELECT session, step, attempt, time FROM uses").fetchall()
    for name in ("entries", "uses"):
        connection.execute(f"DROP TABLE {name}")
    _create(connection)
    for seq, time, *charged, after, previous, hash_, signature in rows:
        content = content_1(seq, time, Charge(*charged), after, previous)
        if content_hash(content) != hash_:
            raise ValueError(f"entry {seq} does not have the hash of its content")
        row = (seq, content, hash_, signature)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
    connection.executemany("INSERT INTO uses VALUES (?, ?, ?, ?)", uses)


_MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {0: _create, 1: _from_1}


def _statements(script: str) -> Iterator[str]:
    """Splits a script; `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
