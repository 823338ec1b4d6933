"""What a ledger says was spent, read beside the agent that writes it and without its key.

Nothing is verified here; `audit` does that.
"""

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hortus.protocol.databases import read_sqlite
from hortus.protocol.errors import HortusError


@dataclass(frozen=True, slots=True)
class Spending:
    """A ledger in few numbers.

    Attributes:
        entries: Number of charges, over all runs.
        epsilon: Largest ε of any dataset; infinite after a release without noise.
        after_round: ε after each round of the run that was asked for, by round from 0.
    """

    entries: int
    epsilon: float
    after_round: Mapping[int, float]


def read_spending(path: Path, run: str) -> Spending:
    """Reads what a ledger says; nothing at all if it is not there yet.

    Args:
        path: The SQLite file.
        run: The run whose rounds are wanted, hexadecimal.

    Raises:
        HortusError: The file is damaged.
    """
    if not path.exists():
        return Spending(0, 0.0, {})
    try:
        with closing(read_sqlite(path)) as connection:
            connection.execute("BEGIN")
            entries, largest = connection.execute(
                "SELECT count(*), max(epsilon_after) FROM entries"
            ).fetchone()
            rows = connection.execute(
                "SELECT round, max(epsilon_after) FROM entries WHERE run = ? GROUP BY round "
                "ORDER BY round",
                (run,),
            ).fetchall()
    except sqlite3.Error as error:
        raise HortusError(f"the ledger cannot be read: {error}", where=str(path)) from error
    return Spending(entries, largest or 0.0, dict(rows))


def finite(epsilon: float | None) -> float | None:
    """Returns an ε, or None where there is no bound."""
    return epsilon if epsilon is not None and math.isfinite(epsilon) else None
