"""A refusal is told once, and is closed when the site has come back."""

import pytest
from helpers.made_runs import make_round

from hortus.server.run.absences import Absence, absences
from hortus.server.run.records import Departure

BUDGET, LOST = "its budget is spent", "its connection was lost"


@pytest.mark.parametrize(
    ("departures", "present", "expected"),
    [
        # Said in the session, and again when it is asked: one refusal.
        ([(1, BUDGET), (1, "budget: " + BUDGET)], [0], [(2, "budget: " + BUDGET, None)]),
        ([(1, LOST)], [0, 3], [(2, LOST, 4)]),
        # It missed no round: it was back before the round was done.
        ([(1, LOST)], [0, 1, 2], [(2, LOST, 2)]),
        ([(1, LOST), (3, BUDGET)], [0, 2], [(2, LOST, 3), (4, BUDGET, None)]),
        ([(0, "not approved"), (2, "not approved")], [], [(1, "not approved", None)]),
        ([(0, BUDGET), (0, LOST), (2, BUDGET), (2, LOST)], [1], [(1, LOST, 2), (3, LOST, None)]),
        ([], [0, 1, 2, 3], []),
    ],
)
def test_one_line_for_each_time_that_a_site_was_away(
    departures: list[tuple[int, str]],
    present: list[int],
    expected: list[tuple[int, str, int | None]],
) -> None:
    rounds = [
        make_round(number, ("ash", "birch") if number in present else ("birch",))
        for number in range(4)
    ]
    noted = [Departure(number, "ash", reason) for number, reason in departures]
    assert absences(noted, rounds) == tuple(Absence("ash", *one) for one in expected)


def test_sites_are_apart() -> None:
    rounds = [make_round(0, ("ash",)), make_round(1, ("ash", "birch"))]
    noted = [Departure(0, "birch", LOST), Departure(0, "cedar", BUDGET)]
    assert absences(noted, rounds) == (
        Absence("birch", 1, LOST, 2),
        Absence("cedar", 1, BUDGET, None),
    )
