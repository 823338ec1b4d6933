"""Budget that is held counts while its process may still spend it, and no longer; uses count for ever."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers.charges import make_charge

from hortus.privacy.ledger.holds import Holds, Reservation
from hortus.privacy.ledger.schema import create_tables
from hortus.runtime.errors import Refused

NOW, HOUR, WEEK = 1.8e9, 3600.0, 7 * 86_400.0
HELD = Reservation("one", make_charge(sampling_rate=0.1), None)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection)
    yield connection
    connection.close()


@pytest.fixture
def holds(connection: sqlite3.Connection) -> Holds:
    return Holds(connection, lambda: NOW)


@pytest.mark.parametrize(
    ("later", "counts"), [(0, True), (HOUR, True), (HOUR + 1, False), (-1, False), (-WEEK, False)]
)
def test_a_hold_counts_for_an_hour_by_a_clock_that_may_be_set_back(
    holds: Holds, later: float, *, counts: bool
) -> None:
    holds.add(HELD, NOW)
    assert holds.held(NOW + later) == [HELD.charge] * counts


@pytest.mark.parametrize(
    ("later", "pending"), [(HOUR, True), (WEEK, True), (HOUR + WEEK + 1, False)]
)
def test_a_step_may_be_charged_a_week_after_its_hold_has_lapsed(
    holds: Holds, connection: sqlite3.Connection, later: float, *, pending: bool
) -> None:
    holds.add(HELD, NOW)
    assert holds.is_pending(HELD, NOW + later) is pending
    assert Holds(connection, lambda: NOW + later).is_anything_pending() is pending


def test_a_hold_goes_when_it_is_dropped_and_no_other_with_it(holds: Holds) -> None:
    other = Reservation("two", make_charge(step=1), None)
    holds.add(HELD, NOW)
    holds.add(other, NOW)
    holds.drop(HELD)
    assert holds.held(NOW) == [other.charge]
    assert not holds.is_pending(HELD, NOW)
    holds.drop(HELD)  # twice does no harm
    assert holds.is_anything_pending()


def test_a_process_that_has_died_holds_nothing(
    holds: Holds, connection: sqlite3.Connection
) -> None:
    holds.add(HELD, NOW)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    connection.execute("UPDATE reservations SET process = ?", (dead.pid,))
    assert holds.held(NOW) == []
    assert not holds.is_anything_pending()
    connection.execute("UPDATE reservations SET process = ?", (os.getpid(),))
    assert holds.held(NOW) == [HELD.charge]


@pytest.mark.parametrize(
    ("key", "used"),
    [
        (HELD.charge.key, True),
        (("2" * 32, 0, 0), False),
        (("1" * 32, 1, 0), False),
        (("1" * 32, 0, 1), False),
    ],
)
def test_an_attempt_is_used_once(
    holds: Holds, connection: sqlite3.Connection, key: tuple[str, int, int], *, used: bool
) -> None:
    holds.check_unused(HELD.charge.key)
    holds.note_use(HELD.charge.key, NOW)
    if used:
        with pytest.raises(Refused, match="was used before"):
            holds.check_unused(key)
    else:
        holds.check_unused(key)
    for statement in ("DELETE FROM uses", "UPDATE uses SET attempt = 9"):
        with pytest.raises(sqlite3.IntegrityError, match="a use is never"):
            connection.execute(statement)
