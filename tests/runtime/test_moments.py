"""Times are in UTC and in English, whatever the machine's zone and locale."""

import time
from collections.abc import Iterator

import pytest

from hortus.runtime.moments import day, iso_time, moment, period


@pytest.fixture(params=["UTC", "Asia/Kolkata", "America/Los_Angeles"], autouse=True)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_time_is_the_same_everywhere() -> None:
    assert iso_time(1_795_801_800) == "2026-11-27T17:50:00+00:00"
    assert moment(1_795_801_800) == "27 Nov 2026 17:50 UTC"
    assert day(0) == "1 Jan 1970"
    assert moment(0.9) == "1 Jan 1970 00:00 UTC"


def test_a_period_of_a_day_names_it_once() -> None:
    assert period(86_400 * 5, 86_400 * 6 - 1) == "6 Jan 1970"
    assert period(86_400 * 5, 86_400 * 6) == "6 Jan 1970 to 7 Jan 1970"
