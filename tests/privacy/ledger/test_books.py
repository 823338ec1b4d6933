"""What entries add up to: each scope on its own, joined accounts together, and never less than before."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from helpers.charges import make_approval, make_charge

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.books import Account, Books, Tally, exceeded
from hortus.privacy.ledger.charges import Charged, Level, Scope
from hortus.privacy.ledger.decisions import EVERY_DATASET, Frozen, Granted, Unfrozen, Withdrawn
from hortus.privacy.ledger.entries import GENESIS, Body, Entry
from hortus.privacy.ledger.lineages import Placement
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget, Every, PeriodBudget
from hortus.runtime.errors import Refused

ASH, DELTA, EVENT = Identity.generate("ash"), 1e-5, GaussianEvent(1.0, 4.0)
A, B, PLAN = "d" * 64, "a" * 64, "e" * 64
LEVELS = (Level(Scope.LIFETIME, "", 1.0, 9.0),)
MARCH, APRIL = (datetime(2026, month, 5, tzinfo=UTC).timestamp() for month in (3, 4))
BUDGET = Budget(
    epsilon=9,
    delta=DELTA,
    per_plan=5,
    per_period=PeriodBudget(epsilon=4, every=Every.MONTH),
)


class Ledger(Books):
    """Books that number their entries."""

    def tell(self, body: Body, time: float = MARCH) -> None:
        self.seq = getattr(self, "seq", 0) + 1
        self.add(Entry.make(self.seq, time, body, GENESIS, ASH))

    def charge(self, time: float = MARCH, joins: tuple[str, ...] = (), **changes: Any) -> None:
        step = getattr(self, "seq", 0)
        charge = make_charge(**{"step": step} | changes)
        self.tell(Charged(charge, charge.dataset, joins, LEVELS), time)


def spent(*releases: int) -> tuple[float, ...]:
    return tuple(epsilon({EVENT: count}, DELTA) if count else 0.0 for count in releases)


def test_a_tally_counts_releases_and_is_infinite_without_noise() -> None:
    tally = Tally()
    for _ in range(2):
        tally.add(make_charge(releases=3))
    assert tally.history == {EVENT: 6}
    bare = tally.with_([make_charge(mode="unsafe_none", mechanism="none", noise_multiplier=0)])
    assert bare.epsilon(DELTA) == math.inf
    assert tally.epsilon(DELTA) == epsilon({EVENT: 6}, DELTA), "the copy changed nothing"
    tally.merge(bare)
    assert tally.history == {EVENT: 12}
    assert tally.is_bare


@pytest.mark.parametrize(
    ("plan", "now", "expected"),
    [
        (PLAN, MARCH, spent(4, 3, 4)),
        ("f" * 64, MARCH, spent(4, 2, 4)),
        (PLAN, APRIL, spent(4, 3, 2)),
    ],
    ids=["again", "another plan", "next month"],
)
def test_each_scope_is_counted_on_its_own(
    plan: str, now: float, expected: tuple[float, ...]
) -> None:
    books = Ledger()
    books.charge(MARCH)
    books.charge(MARCH)
    books.charge(now, plan="f" * 64)
    levels = books.levels(make_charge(plan=plan), Placement(A), BUDGET, now)
    assert [level.scope for level in levels] == [Scope.LIFETIME, Scope.PLAN, Scope.PERIOD]
    assert tuple(level.epsilon for level in levels) == expected


def test_a_period_that_was_charged_later_stays_when_the_clock_is_set_back() -> None:
    books = Ledger()
    books.charge(APRIL)
    (*_, period) = books.levels(make_charge(), Placement(A), BUDGET, MARCH)
    assert (period.period, period.epsilon) == ("2026-04", *spent(2))


def test_what_is_held_counts_for_its_own_plan_alone() -> None:
    books, held = Ledger(), [make_charge(plan="f" * 64, step=7), make_charge(step=8)]
    lifetime, plan, period = books.levels(make_charge(), Placement(A), BUDGET, MARCH, held)
    assert (lifetime.epsilon, plan.epsilon, period.epsilon) == spent(3, 2, 3)
    assert books.levels(make_charge(), Placement(A), None, MARCH)[0].limit == math.inf


def test_accounts_that_join_have_one_budget_the_least_grant_and_any_freeze() -> None:
    books = Ledger()
    books.charge()
    books.charge(dataset=B)
    books.tell(Granted(A, 2.0, "one"))
    books.tell(Granted(B, 5.0, "two"))
    books.tell(Granted(EVERY_DATASET, 1.0, "all"))
    books.tell(Frozen(B, "an incident"))
    place = Placement(A, (B,))
    assert books.granted(place) == 3.0
    assert books.frozen(place) == "an incident"
    books.charge(joins=(B,))
    assert books.accounts.keys() == {A}
    assert books.accounts[A].lifetime.history == {EVENT: 3}
    assert (books.granted(Placement(A)), books.frozen(Placement(A))) == (3.0, "an incident")
    books.tell(Unfrozen(B, "solved"))
    assert books.frozen(Placement(A)) is None


def test_what_no_budget_buys_is_refused_without_a_fingerprint() -> None:
    books = Ledger()
    books.charge()
    books.check("record", Placement(A))
    for change, unit in ((None, "patient"), (Frozen(A, "an incident"), "record")):
        if change:
            books.tell(change)
        with pytest.raises(Refused) as caught:
            books.check(unit, Placement(A))
        assert A[:8] not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"plan": "f" * 64}, {"run": "7" * 32}, {"run": "7" * 32, "plan": "f" * 64}],
    ids=["another plan", "another run", "both"],
)
def test_a_session_and_a_run_stay_with_their_plan(changes: dict[str, Any]) -> None:
    books = Ledger()
    books.charge()
    books.check_plan(make_charge())
    with pytest.raises(Refused, match="another plan"):
        books.check_plan(make_charge(**changes))


def test_a_plan_that_was_withdrawn_is_charged_only_when_it_is_approved_again() -> None:
    books = Ledger()
    books.tell(make_approval())
    books.check_plan(make_charge())
    books.tell(Withdrawn(PLAN, "study", "Ada", "over"))
    with pytest.raises(Refused, match="withdrawn"):
        books.check_plan(make_charge())
    books.tell(make_approval())
    books.check_plan(make_charge())
    assert list(books.consents) == [PLAN]


def test_the_first_scope_over_its_limit_is_named() -> None:
    over = Level(Scope.PLAN, "", 2.0, 1.0)
    assert exceeded([Level(Scope.LIFETIME, "", 1.0, 1.0)]) is None
    assert exceeded([*LEVELS, over, Level(Scope.PERIOD, "2026", 9, 1)]) == over


@pytest.mark.parametrize(
    ("after", "until", "was"),
    [(0, 9, True), (2, 4, False), (1, 2, True), (5, 9, False), (4, 5, True)],
)
def test_an_account_knows_between_which_entries_it_was_charged(
    after: int, until: int, *, was: bool
) -> None:
    assert Account("record", entries=[2, 5]).was_charged(after, until) is was
