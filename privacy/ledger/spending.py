"""What a ledger says was spent, read beside the agent that writes it and without its key.

Nothing is verified here; `audit` does that.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hortus.privacy.ledger.books import Books
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.lineages import Placement
from hortus.runtime.databases import DAMAGED, read_snapshot, read_sqlite
from hortus.runtime.errors import HortusError


@dataclass(frozen=True, slots=True)
class Spending:
    """A ledger in a few numbers.

    Attributes:
        charges: Number of charges, over all runs.
        epsilon: Largest ε of any dataset; infinite after a release without noise.
        after_round: ε after each round of the run that was asked for, by round from 0.
        granted: What the operator has added to the budget of the dataset charged last.
    """

    charges: int
    epsilon: float
    after_round: Mapping[int, float]
    granted: float


def count_entries(path: Path) -> int:
    """Returns the number of a ledger's last entry, 0 for none, without waiting for a transaction on it.

    Raises:
        HortusError: The file cannot be read.
    """

    def last(connection: sqlite3.Connection) -> int:
        (number,) = connection.execute("SELECT ifnull(max(seq), 0) FROM entries").fetchone()
        return int(number)

    try:
        return read_snapshot(path, last)
    except (*DAMAGED, OSError) as error:
        raise HortusError(f"the ledger cannot be read: {error}", where=str(path)) from error


def read_spending(path: Path, run: str) -> Spending:
    """Reads what a ledger says; nothing at all if it is not there yet.

    Args:
        path: The SQLite file.
        run: The run whose rounds are wanted, hexadecimal.

    Raises:
        HortusError: The file is damaged, or of an older version that no agent has opened since.
    """
    rows: list[tuple[str, str, bytes]] = []
    if path.exists():
        try:
            with closing(read_sqlite(path)) as connection:
                rows = connection.execute(
                    "SELECT content, hash, signature FROM entries ORDER BY seq"
                ).fetchall()
        except DAMAGED as error:
            raise HortusError(f"the ledger cannot be read: {error}", where=str(path)) from error
    books, charges = Books(), 0
    largest, granted = 0.0, 0.0
    after_round: dict[int, float] = {}
    for number, row in enumerate(rows, start=1):
        try:
            entry = Entry.parse(*row)
        except ValueError as error:
            raise HortusError(f"entry {number} is malformed: {error}", where=str(path)) from error
        books.add(entry)
        if isinstance(entry.body, Charged):
            charge, charges = entry.body.charge, charges + 1
            largest = max(largest, entry.body.epsilon_after)
            granted = books.granted(Placement(books.lineages.root(charge.dataset)))
            if charge.run == run:
                after_round[charge.round] = entry.body.epsilon_after
    return Spending(charges, largest, after_round, granted)
