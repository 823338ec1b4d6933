"""A content draws on the budget of the people in it: by their marks, and where unsure on all of them."""

import sqlite3
from collections.abc import Iterator

import pytest
from helpers.charges import make_charge, make_content

from hortus.privacy.ledger.books import Books
from hortus.privacy.ledger.charges import Charged, Level, Scope
from hortus.privacy.ledger.contents import UNKNOWN, Contents, check_apart
from hortus.privacy.ledger.entries import GENESIS, Entry
from hortus.privacy.ledger.holds import Holds, Reservation
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.marks import Content, Marks
from hortus.privacy.ledger.schema import create_tables
from hortus.protocol.identity import Identity
from hortus.runtime.errors import UsageError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
ASH = Identity.generate("ash")
LEVELS = (Level(Scope.LIFETIME, "", 1.0, 9.0),)
NOW = 1.8e9


class Site:
    """A site's books, marks and holds on one empty file, and the number of entries so far."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.books, self.marks = Books(), Marks(connection)
        self.holds = Holds(connection, lambda: NOW)
        self.contents = Contents(self.books, self.marks, self.holds)
        self.entries = 0

    def follow(self, content: Content) -> Placement:
        self.contents.follow(content, self.entries)
        return self.contents.place(content.dataset)

    def charge(self, dataset: str) -> Placement:
        place = self.contents.place(dataset)
        self.entries += 1
        charge = make_charge(dataset=dataset, step=self.entries)
        body = Charged(charge, place.account, place.joins, LEVELS)
        self.books.add(Entry.make(self.entries, NOW, body, GENESIS, ASH))
        return place


@pytest.fixture
def site() -> Iterator[Site]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection)
    yield Site(connection)
    connection.close()


def test_a_content_with_somebody_of_an_account_is_charged_to_it(site: Site) -> None:
    site.follow(make_content(A, "ada", "ben"))
    assert site.charge(A) == Placement(A)
    assert site.follow(make_content(B, "ben", "cleo")) == Placement(A)


def test_nobody_in_common_still_inherits_unless_somebody_states_otherwise(site: Site) -> None:
    site.follow(make_content(A, "ada"))
    site.charge(A)
    assert site.contents.compare(make_content(B, "zoe")) == {}
    assert site.follow(make_content(B, "zoe")) == Placement(A)


def test_to_look_ahead_notes_nothing(site: Site) -> None:
    site.follow(make_content(A, "ada"))
    site.charge(A)
    content = make_content(B, "ada", "ben")
    assert site.contents.foresee(content) == Placement(A)
    assert site.marks.current() == A
    site.follow(content)
    assert site.marks.current() == B
    assert site.contents.foresee(content) == site.contents.place(B)


def test_whoever_left_before_anything_was_charged_shares_nothing(site: Site) -> None:
    site.follow(make_content(A, "ada", "ben"))
    site.follow(make_content(B, "ben"))
    site.charge(B)
    assert site.contents.compare(make_content(C, "ada")) == {}
    assert site.contents.compare(make_content(C, "ben")) == {B: 1}


def test_while_a_step_is_pending_everybody_it_may_have_seen_counts(site: Site) -> None:
    site.follow(make_content(A, "ada", "ben"))
    held = Reservation("one", make_charge(dataset=A), None)
    site.holds.add(held, NOW)
    site.follow(make_content(B, "ben"))
    assert site.contents.compare(make_content(C, "ada")) == {A: 1}
    site.holds.drop(held)
    assert site.contents.compare(make_content(C, "ada")) == {}


def test_what_was_released_before_marks_were_kept_may_hold_anybody(site: Site) -> None:
    site.charge(A)
    assert site.contents.compare(make_content(B, "ada")) == {A: UNKNOWN}
    assert site.contents.accounts_of(B) == {A}


@pytest.mark.parametrize(
    ("shared", "said"),
    [(UNKNOWN, "nobody can tell"), (1, "1 of 2 units are in both"), (2, "2 of 2 units")],
)
def test_a_statement_of_disjointness_is_checked(shared: int, said: str) -> None:
    content = make_content(B, "ada", "ben")
    check_apart(content, A, 0)
    with pytest.raises(UsageError, match=said) as caught:
        check_apart(content, A, shared)
    assert caught.value.where == f"dataset {A[:16]}"
