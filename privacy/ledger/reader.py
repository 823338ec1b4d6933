"""A ledger as it is read: entry after entry, each of which must continue the one before it.

`Ledger` reads its own file so before it writes; `LedgerReader` follows one beside the agent that writes it,
without its key.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from hortus.privacy.ledger.books import Books
from hortus.privacy.ledger.entries import GENESIS, Entry, content_hash
from hortus.runtime.databases import DAMAGED, read_snapshot
from hortus.runtime.errors import HortusError

SELECT_ENTRIES = "SELECT seq, content, hash, signature FROM entries ORDER BY seq"
SELECT_ENTRIES_AFTER = (
    "SELECT seq, content, hash, signature FROM entries WHERE seq > ? ORDER BY seq"
)
_SELECT_HASH = "SELECT hash FROM entries WHERE seq = ?"
_SELECT_SEEN = "SELECT MAX(time) FROM countersignatures"

Row = tuple[int, str, str, bytes]  # seq, content, hash, signature
Head = tuple[int, str]  # number and hash of an entry


def continued(
    rows: Iterable[Row], head: Head, key_at: Callable[[int], bytes], site: str
) -> Iterator[Entry]:
    """Yields the entries in rows, each checked against the one before it; the last by its signature.

    The last signature vouches for all entries before it: it is checked when they have all been yielded.

    Args:
        rows: What follows the head, in order.
        head: The last entry that was read.
        key_at: Returns the raw public key that signs an entry, by its number.
        site: Whose ledger it is.

    Raises:
        ValueError: They were altered, in words.
    """
    entry: Entry | None = None
    number, previous = head
    for seq, content, hash_, signature in rows:
        number += 1
        try:
            entry = Entry.parse(content, hash_, signature)
        except ValueError as error:
            raise ValueError(f"entry {number} was altered: {error}") from error
        link = (seq, entry.seq, entry.previous_hash, content_hash(content))
        if link != (number, number, previous, hash_):
            raise ValueError(f"an entry was altered: number {number} does not fit the chain")
        previous = entry.hash
        yield entry
    if entry is not None and not entry.is_signed_by(key_at(entry.seq)):
        raise ValueError(f"entry {entry.seq} was not signed by the key of {site}")


class LedgerReader:
    """Follows a site's ledger beside its agent: nothing is written, and no private key is needed.

    Attributes:
        entries: All entries so far.
        books: What they add up to.
        seen: When the server last saw a head, by its clock, in seconds since the epoch; None: never.

    Args:
        path: The SQLite file; one that is not there yet is empty.
        site: Whose it is.
    """

    def __init__(self, path: Path, site: str) -> None:
        self.entries: list[Entry] = []
        self.books = Books()
        self.seen: float | None = None
        self._path = path
        self._site = site

    def look(self, key_at: Callable[[int], bytes]) -> None:
        """Reads what was added, all of it as it was at one moment.

        Args:
            key_at: See `continued`.

        Raises:
            HortusError: The file cannot be read, or was altered; what was read before stays.
        """
        if not self._path.exists() and not self.entries:
            return
        head = (self.entries[-1].seq, self.entries[-1].hash) if self.entries else (0, GENESIS)
        try:
            is_there, rows, seen = read_snapshot(self._path, partial(_read, head))
        except (*DAMAGED, OSError) as error:
            raise HortusError(
                f"the ledger cannot be read: {error}", where=str(self._path)
            ) from error
        if not is_there:
            raise altered(f"entry {head[0]} has disappeared", self._path)
        try:
            added = list(continued(rows, head, key_at, self._site))
        except ValueError as error:
            raise altered(str(error), self._path) from error
        for entry in added:
            self.books.add(entry)
        self.entries += added
        self.seen = seen


def altered(problem: str, path: Path) -> HortusError:
    """Says that a ledger was altered, and what to do."""
    remedy = "`hortus audit` says which entry and why; restore the file from a backup."
    return HortusError(problem, where=str(path), remedy=remedy)


def _read(head: Head, connection: sqlite3.Connection) -> tuple[bool, list[Row], float | None]:
    """Returns whether the head is still there, what follows it, and when the server last saw one."""
    number, hash_ = head
    is_there = not number or connection.execute(_SELECT_HASH, (number,)).fetchone() == (hash_,)
    rows = connection.execute(SELECT_ENTRIES_AFTER, (number,)).fetchall()
    (seen,) = connection.execute(_SELECT_SEEN).fetchone()
    return is_there, rows, None if seen is None else float(seen)
