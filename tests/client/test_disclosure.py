"""No error carries a record out of a site, and no log keeps one."""

import errno

import pytest

from hortus.client.disclosure import FAILED, Disclosure, loggable
from hortus.client.preparation import Preparing
from hortus.runtime.errors import DataError, HortusError, ProtocolError, Refused, UsageError

SECRET = "Ada is ill"
FAILURES = [
    DataError(f"{SECRET!r} has no label"),
    UsageError(f"{SECRET!r} is too long"),
    ProtocolError(SECRET),
    HortusError(SECRET),
    OSError(errno.EIO, SECRET),
    ValueError(SECRET),
    KeyError(SECRET),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_every_failure_sounds_the_same_to_others(error: Exception) -> None:
    watched = Disclosure(observed=True, hides=True)
    assert watched.public(watched.seen(error)) == FAILED


@pytest.mark.parametrize("answer", [Refused("the budget is spent"), Preparing(10)])
def test_what_the_policy_answers_is_told_on_one_line(answer: Exception) -> None:
    assert Disclosure(observed=True, hides=True).public(answer) == str(answer)
    assert "\n" not in Disclosure(observed=True, hides=True).public(Refused("a\nb"))


@pytest.mark.parametrize("error", FAILURES[-3:], ids=lambda error: type(error).__name__)
def test_a_rehearsal_shows_its_defects(error: Exception) -> None:
    with pytest.raises(type(error)):
        Disclosure(observed=False, hides=True).seen(error)
    assert SECRET in Disclosure(observed=False, hides=False).public(error)


@pytest.mark.parametrize("error", [FAILURES[0], *FAILURES[-3:]], ids=lambda e: type(e).__name__)
def test_a_log_keeps_nothing_that_may_quote_a_record(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        raise error
    assert SECRET not in loggable(caught.value)
