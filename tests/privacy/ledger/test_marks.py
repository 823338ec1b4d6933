"""Marks tell whether two contents hold the same people, to the site alone, and how long each was there."""

import sqlite3
from collections.abc import Iterator

import pytest
from helpers.charges import make_content
from hypothesis import given
from hypothesis import strategies as st

from hortus.privacy.ledger.marks import Content, Marks, dataset_fingerprint
from hortus.privacy.ledger.schema import create_tables

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
KEY, OTHER = b"k" * 32, b"l" * 32


def always(*_: object) -> bool:
    return True


@pytest.fixture
def marks() -> Iterator[Marks]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection)
    yield Marks(connection)
    connection.close()


def test_a_mark_says_nothing_without_the_key() -> None:
    mine, yours = (Content.of(key, A, "record", [b"ada"], []) for key in (KEY, OTHER))
    assert not mine.rows & yours.rows
    assert mine.key != yours.key
    assert b"ada" not in b"".join(mine.rows)


def test_a_row_and_an_id_of_the_same_bytes_are_two_marks() -> None:
    content = Content.of(KEY, A, "patient", [b"7"], ["7"])
    assert not content.rows & content.ids
    assert (content.units, len(content.rows)) == (1, 1)


@pytest.mark.parametrize(
    ("unit", "people", "common"),
    [("record", ("ben", "cleo"), 1), ("record", ("zoe",), 0), ("patient", ("ada", "ben"), 2)],
)
def test_shared_units_are_counted_by_account(
    marks: Marks, unit: str, people: tuple[str, ...], common: int
) -> None:
    marks.follow(make_content(A, "ada", "ben", unit=unit), A, (), 0, 0)
    found = marks.compare(make_content(B, *people, unit=unit), always)
    assert found == ({A: common} if common else {})
    assert marks.compare(make_content(B, *people, unit=unit), lambda *_: False) == {}


def test_of_units_of_two_kinds_the_rows_are_compared(marks: Marks) -> None:
    marks.follow(make_content(A, "ada", "ben", unit="patient"), A, (), 0, 0)
    assert marks.compare(make_content(B, "ada"), always) == {A: 1}


def test_a_stay_lasts_from_the_first_content_to_the_last_that_holds_a_unit(marks: Marks) -> None:
    marks.follow(make_content(A, "ada", "ben"), A, (), 0, 0)
    marks.follow(make_content(B, "ben"), A, (A,), 3, 3)
    marks.follow(make_content(C, "ben", "cleo"), A, (A,), 5, 5)
    stays = {(stay.after, min(stay.until, 99)): stay.count for stay in marks.stays({A}, "record")}
    assert stays == {(0, 3): 1, (0, 99): 1, (5, 99): 1}
    assert (marks.current(), marks.accounts()) == (C, [A])
    assert marks.shared_with(C) == [A]
    assert marks.shared_with(A) is None


def test_a_charge_for_a_content_that_was_replaced_lengthens_its_stay(marks: Marks) -> None:
    marks.follow(make_content(A, "ada"), A, (), 0, 0)
    marks.follow(make_content(B, "ben"), A, (), 2, 2)
    marks.extend(A, 4)
    assert [stay.until for stay in marks.stays({A}, "record") if stay.after == 0] == [4]


def test_who_left_uncharged_is_forgotten_and_who_was_charged_is_not(marks: Marks) -> None:
    marks.follow(make_content(A, "ada"), A, (), 0, 0)
    marks.follow(make_content(B, "ben"), A, (), 1, 1)
    marks.forget(lambda *_: True, [A])
    assert marks.compare(make_content(C, "ada"), always) == {A: 1}
    marks.forget(lambda *_: False, [])
    assert marks.compare(make_content(C, "ada"), always) == {}
    assert marks.unseen([A], make_content(A).key) == [A], "a late charge may hold anybody"


def test_units_of_another_key_cannot_be_compared(marks: Marks) -> None:
    content = make_content(A, "ada")
    marks.follow(content, A, (), 0, 0)
    assert marks.is_known(content)
    assert marks.is_current(A, "record")
    assert not marks.is_current(A, "patient")
    assert marks.unseen([A, B], content.key) == [B]
    assert marks.unseen([A], b"another") == [A]


@given(st.lists(st.binary(max_size=6), max_size=6), st.randoms(use_true_random=False))
def test_a_fingerprint_is_of_the_records_in_any_order(records: list[bytes], draw: object) -> None:
    shuffled = list(records)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dataset_fingerprint(KEY, shuffled) == dataset_fingerprint(KEY, records)
    assert dataset_fingerprint(KEY, [*records, b"one more"]) != dataset_fingerprint(KEY, records)
    assert dataset_fingerprint(OTHER, records) != dataset_fingerprint(KEY, records)
