"""Keyed hashes of a site's units, by which it sees whether two contents hold the same people.

They lie in the ledger's file, so that a transaction covers both, and are no part of the evidence. A unit
has one row for each account, however many contents it is in: it counts as there from the first content
that holds it to the last, which is never less than it was there.
"""

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from hortus.protocol.privacy import RECORD

_BYTES = 16
_ROW, _ID = 0, 1
_OPEN = 2**62  # above any entry's number: the unit is still there

# Whether an account was charged by an entry above the first number, up to the second.
Charged = Callable[[str, int, int], bool]


@dataclass(frozen=True, slots=True)
class Content:
    """The records of a site as they are now.

    Attributes:
        dataset: Their fingerprint.
        unit: The privacy unit: `RECORD`, or a column.
        key: Identifies the key, since hashes with different keys cannot be compared.
        rows: Keyed hash of each row.
        ids: Keyed hash of each unit's id; empty where records are the units.
    """

    dataset: str
    unit: str
    key: bytes
    rows: frozenset[bytes]
    ids: frozenset[bytes]

    @classmethod
    def of(
        cls, key: bytes, dataset: str, unit: str, rows: Iterable[bytes], ids: Iterable[str]
    ) -> Self:
        """Hashes rows and ids with a secret of the site: nobody without it can test a guess."""
        return cls(
            dataset,
            unit,
            _mark(key, b"key", b""),
            frozenset(_mark(key, b"row", row) for row in rows),
            frozenset(_mark(key, b"unit", id_.encode()) for id_ in ids),
        )

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.rows if self.unit == RECORD else self.ids)


def _mark(key: bytes, kind: bytes, value: bytes) -> bytes:
    return hmac.digest(key, b"hortus/v1/" + kind + b"\x00" + value, "sha256")[:_BYTES]


@dataclass(frozen=True, slots=True)
class Stay:
    """Units that came and went together.

    Attributes:
        after: Number of the ledger's last entry when they came.
        until: Number of the last entry that they were there for; `_OPEN` while they are.
        count: How many.
    """

    after: int
    until: int
    count: int


class Marks:
    """The tables `contents`, `lineages` and `marks`; callers hold the transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def is_current(self, dataset: str, unit: str) -> bool:
        """Returns whether a content is the one that was seen last, with units of that kind."""
        found = self._connection.execute(
            "SELECT 1 FROM contents WHERE dataset = ? AND unit = ? AND closed IS NULL",
            (dataset, unit),
        ).fetchone()
        return found is not None

    def current(self) -> str | None:
        """Returns the content that was seen last; None before the first."""
        found = self._connection.execute(
            "SELECT dataset FROM contents WHERE closed IS NULL"
        ).fetchone()
        return None if found is None else str(found[0])

    def shared_with(self, dataset: str) -> list[str] | None:
        """Returns the accounts that the current content shares units with; None for another."""
        found = self._connection.execute(
            "SELECT shared FROM contents WHERE dataset = ? AND closed IS NULL", (dataset,)
        ).fetchone()
        return None if found is None else [str(name) for name in json.loads(found[0])]

    def accounts(self) -> list[str]:
        """Returns the accounts that units were noted for, under the names that they had then."""
        names = self._connection.execute("SELECT account FROM lineages ORDER BY number")
        return [str(name) for (name,) in names]

    def compare(self, content: Content, charged: Charged) -> dict[str, int]:
        """Returns how many units of a content each account has charged something for.

        Where two units of different kinds meet (a record here, a patient there), rows are counted.
        """
        self._load(content)
        found: dict[str, int] = {}
        for number, account in self._connection.execute("SELECT * FROM lineages").fetchall():
            stays = self._connection.execute(
                "SELECT marks.kind, first, ifnull(last, ?), count(*) FROM seen CROSS JOIN marks "
                "USING (mark) WHERE account = ? GROUP BY 1, 2, 3",
                (_OPEN, number),
            )
            kinds = {_ROW: 0, _ID: 0}
            for kind, first, last, count in stays.fetchall():
                if charged(account, first, last):
                    kinds[kind] += count
            if any(kinds.values()):
                found[account] = kinds[_ID] or kinds[_ROW]
        return found

    def unseen(self, datasets: Iterable[str], key: bytes) -> list[str]:
        """Returns the contents whose units were not hashed, or with another key."""
        rows = self._connection.execute("SELECT dataset FROM contents WHERE key = ?", (key,))
        seen = {dataset for (dataset,) in rows}
        return [dataset for dataset in datasets if dataset not in seen]

    def is_known(self, content: Content) -> bool:
        """Returns whether a content was seen before, with such units and the same key."""
        found = self._connection.execute(
            "SELECT 1 FROM contents WHERE dataset = ? AND unit = ? AND key = ?",
            (content.dataset, content.unit, content.key),
        ).fetchone()
        return found is not None

    def follow(
        self, content: Content, account: str, shared: Collection[str], head: int, since: int
    ) -> None:
        """Notes that a content is the current one: some units have come, others have gone.

        Args:
            content: The content.
            account: What it is charged to next.
            shared: What `compare` found.
            head: Number of the ledger's last entry.
            since: Number of the last entry that its units were not there for, as far as is known.
        """
        execute = self._connection.execute
        self._load(content)
        execute("INSERT OR IGNORE INTO lineages (account) VALUES (?)", (account,))
        (number,) = execute("SELECT number FROM lineages WHERE account = ?", (account,)).fetchone()
        execute("UPDATE contents SET closed = ? WHERE closed IS NULL", (head,))
        execute(
            "UPDATE marks SET last = ? WHERE last IS NULL "
            "AND NOT (account = ? AND mark IN (SELECT mark FROM seen))",
            (head, number),
        )
        execute(
            "INSERT INTO marks SELECT ?, mark, kind, ?, NULL FROM seen WHERE true "
            "ON CONFLICT DO UPDATE SET first = min(first, excluded.first), last = NULL",
            (number, since),
        )
        row = (content.dataset, content.unit, content.key, json.dumps(sorted(shared)))
        execute("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?, NULL)", row)

    def extend(self, dataset: str, seq: int) -> None:
        """Notes a charge for a content that has been replaced while its step was computed."""
        found = self._connection.execute(
            "SELECT closed FROM contents WHERE dataset = ? AND closed < ?", (dataset, seq)
        ).fetchone()
        if found is not None:
            # Some of its units were in the contents that came after, and went with those.
            self._connection.execute("UPDATE marks SET last = ? WHERE last >= ?", (seq, found[0]))
            row = (seq, dataset)
            self._connection.execute("UPDATE contents SET closed = ? WHERE dataset = ?", row)

    def forget(self, charged: Charged, released: Collection[str]) -> None:
        """Drops units that have gone and that nothing was ever charged for.

        A content that held them counts as never hashed: it may be charged yet, by a step that saw it.

        Args:
            charged: Whether there was a charge.
            released: The contents that anything was released from.
        """
        self._connection.execute(
            "UPDATE contents SET key = x'' WHERE closed IS NOT NULL "
            "AND dataset NOT IN (SELECT value FROM json_each(?))",
            (json.dumps(list(released)),),
        )
        accounts = dict(self._connection.execute("SELECT number, account FROM lineages").fetchall())
        stays = self._connection.execute(
            "SELECT DISTINCT account, first, last FROM marks WHERE last IS NOT NULL"
        )
        for number, first, last in stays.fetchall():
            if not charged(accounts[number], first, last):
                self._connection.execute(
                    "DELETE FROM marks WHERE account = ? AND first = ? AND last = ?",
                    (number, first, last),
                )

    def stays(self, accounts: Collection[str], unit: str) -> Iterator[Stay]:
        """Yields the units of accounts that are one, by when they came and went."""
        numbered = self._connection.execute("SELECT number, account FROM lineages").fetchall()
        numbers = json.dumps([number for number, account in numbered if account in accounts])
        rows = self._connection.execute(
            "SELECT after, until, count(*) FROM (SELECT min(first) AS after, "
            "max(ifnull(last, ?)) AS until FROM marks "
            "WHERE account IN (SELECT value FROM json_each(?)) AND kind = ? GROUP BY mark) "
            "GROUP BY 1, 2 ORDER BY 1, 2",
            (_OPEN, numbers, _ROW if unit == RECORD else _ID),
        )
        return (Stay(*row) for row in rows.fetchall())

    def _load(self, content: Content) -> None:
        """Puts a content's hashes where SQL can compare them."""
        self._connection.execute(
            "CREATE TEMP TABLE IF NOT EXISTS seen (mark BLOB PRIMARY KEY, kind INTEGER) WITHOUT ROWID"
        )
        self._connection.execute("DELETE FROM seen")
        for kind, marks in ((_ROW, content.rows), (_ID, content.ids)):
            self._connection.executemany(
                "INSERT INTO seen VALUES (?, ?)", ((mark, kind) for mark in sorted(marks))
            )


def dataset_fingerprint(key: bytes, records: Iterable[bytes]) -> str:
    """Identifies a content by its records, in whatever order and under whatever file name.

    Args:
        key: A secret of the site: without it, nobody can test whether a guessed dataset is this one.
        records: A canonical encoding of each record.

    Returns:
        HMAC-SHA256, 64 hexadecimal digits.
    """
    digests = sorted(hashlib.sha256(record).digest() for record in records)
    return hmac.new(key, b"hortus/v1/dataset\x00" + b"".join(digests), hashlib.sha256).hexdigest()
