"""Budget that is held for releases before they are computed, and the attempts that were used up."""

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hortus.privacy.ledger.charges import Charge
from hortus.protocol.policy import Budget
from hortus.runtime.errors import Refused

# A step that takes longer than this loses its hold on the budget, not its right to be charged.
_HOLD_SECONDS = 3600.0
# After this long it is not charged at all, so the units in its records need not be remembered for it.
_MOST_SECONDS = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Budget held for a release that is not computed yet.

    Attributes:
        id: Its name in the file.
        charge: The release.
        budget: What it was checked against; None if the policy sets no limit.
    """

    id: str
    charge: Charge
    budget: Budget | None


class Holds:
    """Reservations and uses in a ledger's file; whoever calls a method has the file for itself.

    Args:
        connection: To the file.
        clock: Seconds since the epoch.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock

    def add(self, reservation: Reservation, now: float) -> None:
        """Holds budget for a release of this process."""
        charge, until = json.dumps(asdict(reservation.charge)), now + _HOLD_SECONDS
        row = (reservation.id, charge, os.getpid(), until)
        self._connection.execute("INSERT INTO reservations VALUES (?, ?, ?, ?)", row)

    def check_unused(self, key: tuple[str, int, int]) -> None:
        """Refuses an attempt that was charged or used before."""
        used = self._connection.execute(
            "SELECT 1 FROM uses WHERE session = ? AND step = ? AND attempt = ?", key
        ).fetchone()
        if used:
            session, step, attempt = key
            raise Refused(
                f"session {session}, step {step}, attempt {attempt} was used before",
                remedy="A vector is sent once: the server must ask for a new attempt.",
            )

    def note_use(self, key: tuple[str, int, int], now: float) -> None:
        """Notes an attempt for good."""
        self._connection.execute("INSERT INTO uses VALUES (?, ?, ?, ?)", (*key, now))

    def held(self, now: float) -> list[Charge]:
        """Returns what budget is held for."""
        rows = self._connection.execute("SELECT charge, process, until FROM reservations")
        return [
            Charge(**json.loads(charge))
            for charge, process, until in rows.fetchall()
            # A hold from the future was made before the clock was set back.
            if now <= until <= now + _HOLD_SECONDS and _is_alive(process)
        ]

    def is_anything_pending(self) -> bool:
        """Whether a step may still be charged, also one whose hold has lapsed."""
        rows = self._connection.execute(
            "SELECT DISTINCT process FROM reservations WHERE until >= ?",
            (self._clock() - _MOST_SECONDS,),
        )
        return any(_is_alive(process) for (process,) in rows.fetchall())

    def is_pending(self, reservation: Reservation, now: float) -> bool:
        """Whether a reservation may still be charged."""
        row = self._connection.execute(
            "SELECT 1 FROM reservations WHERE id = ? AND until >= ?",
            (reservation.id, now - _MOST_SECONDS),
        ).fetchone()
        return row is not None

    def drop(self, reservation: Reservation) -> None:
        """Gives up a reservation."""
        self._connection.execute("DELETE FROM reservations WHERE id = ?", (reservation.id,))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
