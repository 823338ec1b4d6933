"""The server as a witness: it countersigns the heads of sites' ledgers, and remembers the last.

A site whose ledger was rolled back learns it from the head that it is shown at the next session, and
the server sees it in the head that the site shows.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from hortus.parties.folders import ServerFiles
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.databases import DAMAGED, read_sqlite, remedy_for, write_sqlite
from hortus.runtime.errors import HortusError, ProtocolError
from hortus.runtime.faults import Fault, reach
from hortus.runtime.names import SERVER

_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (
    site TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    signature BLOB NOT NULL,
    time REAL NOT NULL
) STRICT;
"""


class Notary:
    """Countersigns heads; many threads may call it.

    Args:
        identity: The server's; every site's roster has its public half.
        path: SQLite file of the last heads; made if it is not there.
        clock: Seconds since the epoch.

    Raises:
        HortusError: The file cannot be used.
    """

    def __init__(self, identity: Identity, path: Path, clock: Callable[[], float]) -> None:
        self._identity = identity
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        with self._connected() as connection:
            connection.executescript(_SCHEMA)

    @classmethod
    def open(cls, files: ServerFiles, clock: Callable[[], float]) -> Self:
        """Opens the notary of a server's folder.

        Raises:
            UsageError: The identity is missing or wrong.
        """
        identity = Identity.load(files.identity, SERVER)
        return cls(identity, files.heads, clock)

    def known(self, site: str) -> LedgerHead | None:
        """Returns the last head countersigned for a site; None before the first."""
        with self._connected() as connection:
            row = connection.execute(
                "SELECT site, seq, hash, signature FROM heads WHERE site = ?", (site,)
            ).fetchone()
        return LedgerHead(*row) if row else None

    def countersign(self, head: LedgerHead, public_key: bytes) -> Countersignature:
        """Countersigns a head, once it is the last known, on disk.

        Args:
            head: What the site shows.
            public_key: The site's, 32 bytes.

        Raises:
            ProtocolError: The site did not sign it, or it is older than, or another than, the last.
            HortusError: The file cannot be written.
        """
        if not head.is_signed_by(public_key):
            raise ProtocolError(
                "its signature of its ledger's head does not match", where=head.site
            )
        with self._lock:
            last, now = self.known(head.site), self._clock()
            if last is not None and (
                head.seq < last.seq or (head.seq == last.seq and head.hash != last.hash)
            ):
                raise ProtocolError(
                    f"its ledger ends with entry {head.seq}, which is not what it showed before "
                    f"(entry {last.seq}): an older copy is in place",
                    where=head.site,
                    remedy="The site's operator must put the newest ledger back.",
                )
            row = (head.site, head.seq, head.hash, head.signature, now)
            with self._connected() as connection, connection:
                connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?)", row)
                reach(Fault.NOTARY_BEFORE_COMMIT)
        reach(Fault.NOTARY_DURABLE)
        return Countersignature.make(self._identity, head, now)

    def remind(self, site: str, announcements: wire.Announcements) -> wire.Announcements:
        """Adds the last head of a site to what it is told at the start of a session."""
        head = self.known(site)
        if head is not None:
            known = wire.Head(seq=head.seq, hash=head.hash, signature=head.signature)
            announcements.known_head.CopyFrom(known)
        return announcements

    def answer(
        self, site: str, public_key: bytes, request: wire.ReadyRequest
    ) -> wire.Countersignature | None:
        """Countersigns the head in a site's request; None if the request has no head.

        Raises:
            ProtocolError: See `countersign`.
        """
        if not request.HasField("head"):
            return None
        head = request.head
        done = self.countersign(LedgerHead(site, head.seq, head.hash, head.signature), public_key)
        return wire.Countersignature(time=done.time, signature=done.signature)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(write_sqlite(self._path)) as connection:
                yield connection
        except DAMAGED as error:
            raise HortusError(
                f"it cannot be used: {error}",
                where=str(self._path),
                remedy=remedy_for(error, self._path),
            ) from error


def last_contacts(path: Path) -> dict[str, float]:
    """Returns when each site last showed its ledger's head, in seconds since the epoch.

    Args:
        path: The notary's file; it may be in use, or not be there yet.

    Raises:
        HortusError: The file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        with closing(read_sqlite(path)) as connection:
            return dict(connection.execute("SELECT site, time FROM heads ORDER BY site"))
    except DAMAGED as error:
        raise HortusError(f"it cannot be read: {error}", where=str(path)) from error
