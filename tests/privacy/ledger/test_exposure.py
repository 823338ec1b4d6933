"""A unit has spent what was charged while it was there, and is never said to have spent less."""

import math
from itertools import pairwise

import pytest
from helpers.charges import make_charge
from hypothesis import given
from hypothesis import strategies as st

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.exposure import _MOST_LEVELS, Exposure, exposures
from hortus.privacy.ledger.marks import Stay

DELTA, EVENT = 1e-5, GaussianEvent(1.0, 4.0)
CHARGED = [(number, make_charge(step=number)) for number in (2, 3, 5, 8)]


@pytest.mark.parametrize(
    ("after", "until", "releases"),
    [(0, 99, 4), (0, 1, 0), (0, 2, 1), (2, 8, 3), (3, 7, 1), (8, 99, 0), (5, 5, 0)],
)
def test_charges_count_from_a_units_coming_to_its_going(
    after: int, until: int, releases: int
) -> None:
    (found,) = exposures([Stay(after, until, 7)], CHARGED, DELTA)
    assert found == Exposure(epsilon({EVENT: releases}, DELTA), 7)


def test_units_that_have_spent_alike_are_counted_together_and_most_come_first() -> None:
    stays = [Stay(0, 99, 1), Stay(1, 99, 2), Stay(5, 99, 4)]
    assert [(one.units, one.epsilon) for one in exposures(stays, CHARGED, DELTA)] == [
        (3, epsilon({EVENT: 4}, DELTA)),
        (4, epsilon({EVENT: 1}, DELTA)),
    ]


def test_nothing_is_as_bad_as_no_noise() -> None:
    bare = make_charge(mode="unsafe_none", mechanism="none", noise_multiplier=0)
    found = exposures([Stay(0, 99, 1), Stay(2, 99, 1)], [(1, bare), *CHARGED], DELTA)
    assert found[0].epsilon == math.inf
    assert math.isfinite(found[1].epsilon)


@given(st.lists(st.integers(0, 60), min_size=2, max_size=50, unique=True))
def test_of_very_many_spans_some_are_counted_as_more_and_none_as_less(ends: list[int]) -> None:
    charged = [(number, make_charge(step=number)) for number in range(1, 60)]
    stays = [Stay(first, last, 1) for first, last in pairwise(sorted(ends))]
    found = exposures(stays, charged, DELTA)
    assert sum(one.units for one in found) == len(stays)
    assert len(found) <= _MOST_LEVELS
    most = max(min(59, stay.until) - stay.after for stay in stays)
    assert found[0].epsilon >= epsilon({EVENT: most}, DELTA) - 1e-12
