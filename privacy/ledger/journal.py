"""A site's signed, hash-chained entries in their file, which threads and processes may share.

Entries are never changed or deleted. Each entry's hash covers the one before it, so a signature vouches for
everything up to its entry. Anyone who can write to the site's disk can still put an older copy in place; that shows
against the heads that the server has countersigned, and against an anchor that the operator keeps
elsewhere (docs/protocol.md).
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from hortus.privacy.ledger.books import Books
from hortus.privacy.ledger.entries import GENESIS, Body, Entry
from hortus.privacy.ledger.reader import (
    SELECT_ENTRIES,
    SELECT_ENTRIES_AFTER,
    altered,
    continued,
)
from hortus.privacy.ledger.schema import create_tables
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity
from hortus.runtime.databases import remedy_for
from hortus.runtime.errors import HortusError
from hortus.runtime.faults import Fault, reach
from hortus.runtime.files import sync_directory
from hortus.runtime.surroundings import out_of_files

# Another process of this site may be computing an ε inside its transaction.
_BUSY_SECONDS = 120.0


class Journal:
    """One site's entries; `open` it. A subclass says what is written, and what it adds up to."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: Identity,
        clock: Callable[[], float],
    ) -> None:
        """Use `open`."""
        self._path = path
        self._connection = connection
        self._identity = identity
        self._clock = clock
        self._lock = threading.RLock()
        self._books = Books()
        self._head = (0, GENESIS)
        # What the open transaction adds: counted once it is on disk.
        self._added: Entry | None = None

    @classmethod
    def open(cls, path: Path, identity: Identity, clock: Callable[[], float]) -> Self:
        """Opens a ledger, or starts one, and checks that its chain is whole and this site's.

        Args:
            path: The SQLite file; mode 0600 if it is new.
            identity: Signs entries.
            clock: Seconds since the epoch.

        Raises:
            HortusError: The file is damaged, was altered, or is another site's.
        """
        with explained(path):
            _create_private(path)
            connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        ledger = cls(path, connection, identity, clock)
        try:
            ledger._prepare()
        except BaseException:
            connection.close()
            raise
        return ledger

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def entries(self) -> Iterator[Entry]:
        """Yields all entries in order."""
        with self._lock, explained(self._path):
            rows = self._connection.execute(SELECT_ENTRIES).fetchall()
        return (Entry.parse(content, hash_, signature) for _, content, hash_, signature in rows)

    # Heads, by which others notice an older copy.

    def head(self) -> tuple[int, str]:
        """Returns number and hash of the last entry; 0 and `GENESIS` for an empty ledger."""
        with self._reading():
            return self._head

    def signed_head(self) -> LedgerHead | None:
        """Returns the head with the site's signature; None for an empty ledger."""
        seq, hash_ = self.head()
        return LedgerHead.sign(self._identity, seq, hash_) if seq else None

    def contains(self, seq: int, hash_: str) -> bool:
        """Returns whether the entry of that number has that hash."""
        with self._lock, explained(self._path):
            row = self._connection.execute(
                "SELECT 1 FROM entries WHERE seq = ? AND hash = ?", (seq, hash_)
            ).fetchone()
        return row is not None

    def keep(self, countersignature: Countersignature) -> None:
        """Stores what the server has countersigned; the caller has checked the signature."""
        c = countersignature
        with self._transaction():
            row = (c.head.seq, c.head.hash, c.time, c.signature)
            self._connection.execute(
                "INSERT OR IGNORE INTO countersignatures VALUES (?, ?, ?, ?)", row
            )

    def last_countersigned(self) -> float | None:
        """Returns when the server last saw a head, by its clock, in seconds since the epoch."""
        with self._lock, explained(self._path):
            row = self._connection.execute("SELECT MAX(time) FROM countersignatures").fetchone()
        return None if row[0] is None else float(row[0])

    def _append(self, body: Body, now: float) -> Entry:
        seq, previous = self._head
        entry = Entry.make(seq + 1, now, body, previous, self._identity)
        row = (entry.seq, entry.content, entry.hash, entry.signature)
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        self._added = entry
        return entry

    def _prepare(self) -> None:
        with explained(self._path):
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                create_tables(self._connection)
                self._connection.execute("COMMIT")
            except ValueError as error:
                self._connection.execute("ROLLBACK")
                raise HortusError(str(error), where=str(self._path)) from error
        with self._reading():
            pass

    def _catch_up(self) -> None:
        """Checks and counts what was added since the last time, by whatever process."""
        if self._head[0] and not self.contains(*self._head):
            raise altered(f"entry {self._head[0]} has disappeared", self._path)
        key_at, site = self._identity.public_key_at, self._identity.site
        # One entry at a time: a long ledger is never in memory as a whole.
        with closing(self._connection.execute(SELECT_ENTRIES_AFTER, (self._head[0],))) as rows:
            try:
                for entry in continued(rows, self._head, key_at, site):
                    self._count(entry)
            except UnicodeDecodeError:
                raise  # `explained` knows it
            except ValueError as error:
                raise altered(str(error), self._path) from error

    def _count(self, entry: Entry) -> None:
        self._books.add(entry)
        self._head = (entry.seq, entry.hash)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, explained(self._path):
            self._catch_up()
            yield

    @contextmanager
    def _transaction(self) -> Iterator[float]:
        """Holds the write lock of the file; durable on leaving, undone on an exception."""
        with self._lock, explained(self._path):
            reach(Fault.LEDGER_BEFORE_BEGIN)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                self._added = None
                yield self._clock()
                reach(Fault.LEDGER_BEFORE_COMMIT)
                self._connection.execute("COMMIT")
                reach(Fault.LEDGER_DURABLE)
                if self._added is not None:
                    self._count(self._added)
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the file system raise into one sentence that names the file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        where, problem = str(path), str(error)
        if "full" in problem:
            remedy = "Nothing was sent. Make room on its disk and start again."
            raise HortusError("the disk is full", where=where, remedy=remedy) from error
        if "locked" in problem:
            remedy = "Is a second agent of this site running?"
            raise HortusError(
                "another process holds the ledger", where=where, remedy=remedy
            ) from error
        raise HortusError(
            f"the ledger cannot be used: {problem}", where=where, remedy=remedy_for(error, path)
        ) from error
    except UnicodeDecodeError as error:
        # SQLite may read text from a damaged page.
        raise HortusError(
            "the ledger is damaged: it holds bytes that are not text",
            where=str(path),
            remedy="Restore it from a backup.",
        ) from error
    except OSError as error:
        problem = f"the ledger cannot be opened: {error.strerror}"
        raise HortusError(problem, where=str(path), remedy=out_of_files()) from error


def _create_private(path: Path) -> None:
    """Makes an empty file that only its owner reads; SQLite gives its WAL the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    sync_directory(path.parent)
