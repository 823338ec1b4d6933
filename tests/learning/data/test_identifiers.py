import itertools
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.learning.data.identifiers import Finder, Identifier, apart, finder_of, in_texts
from hortus.runtime.errors import UsageError


@pytest.fixture(scope="module")
def finder() -> Finder:
    pytest.importorskip("presidio_analyzer")
    found = finder_of(True)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "kind", "passage"),
    [
        ("write to anna.nowak@clinic.example.com today", "EMAIL_ADDRESS", "anna.nowak@clinic.example.com"),
        ("call +44 20 7946 0018 now", "PHONE_NUMBER", "+44 20 7946 0018"),
        ("call (212) 555-0182 now", "PHONE_NUMBER", "(212) 555-0182"),
        ("see https://example.org/x?id=7 for it", "URL", "https://example.org/x?id=7"),
        ("to DE89 3704 0044 0532 0130 00 please", "IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
        ("NHS number 943 476 5919 given", "UK_NHS", "943 476 5919"),
        ("PESEL 44051401359 given", "PL_PESEL", "44051401359"),
        ("from 192.168.17.5 on", "IP_ADDRESS", "192.168.17.5"),
        ("card 4012 8888 8888 1881 expired", "CREDIT_CARD", "4012 8888 8888 1881"),
    ],
)  # fmt: skip
def test_what_identifies_somebody_is_found_and_masked(
    finder: Finder, text: str, kind: str, passage: str
) -> None:
    found = [one for one in apart(finder.find(text)) if text[one.start : one.end] == passage]
    assert len(found) == 1
    masked = finder.mask(text)
    assert passage not in masked
    assert "<" in masked
    if kind not in {"PHONE_NUMBER", "UK_NHS", "PL_PESEL", "CREDIT_CARD"}:  # may be two things
        assert f"<{kind}>" in masked


@pytest.mark.parametrize(
    "text",
    [
        "The patient has had a rash on the left arm for 3 weeks.",
        "Take 400 mg of ibuprofen twice a day, at most 1,200 mg.",
        "Blood pressure was 120/80, temperature 38.2, pulse 64.",
        "Transfer of 1250.00 failed twice.",
        "",
    ],
)
def test_plain_sentences_stay(finder: Finder, text: str) -> None:
    assert finder.mask(text) == text


def test_nobody_is_asked(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presidio alone fetches a list of domains to tell whether an address may exist."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert finder.mask("ann@example.co.uk or www.example.org") == "<EMAIL_ADDRESS> or <URL>"
    assert finder.mask("a@b.nosuchdomain, arm.Its") == "a@b.nosuchdomain, arm.Its"
    assert finder.mask("www.example.museum.") == "<URL>."


def test_a_site_adds_patterns_of_its_own() -> None:
    pytest.importorskip("presidio_analyzer")
    finder = finder_of({"entities": ["EMAIL_ADDRESS"], "patterns": {"MRN": r"MRN ?\d{7}"}})
    assert finder is not None
    assert finder.mask("MRN 1234567 of a@example.com, +44 20 7946 0018") == (
        "<MRN> of <EMAIL_ADDRESS>, +44 20 7946 0018"
    )


def test_long_texts_are_looked_at_throughout(finder: Finder) -> None:
    """Also where one passage would be cut in two."""
    for before in (2**14 - 30, 2**14 - 5, 2**14, 2**15 - 9):
        text = "x" * (before - 1) + " write to anna.nowak@clinic.example.com " + "y" * 50
        assert "anna.nowak" not in finder.mask(text)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ({"kind": "presido"}, "no finder of identifiers 'presido'"),
        ({"entities": ["EMAIL"]}, "knows no EMAIL"),
        ({"entities": []}, "entities"),
        ({"patterns": {"MRN": "("}}, "MRN"),
        ({"least_score": 2}, "least_score"),
    ],
)
def test_a_finder_that_is_named_wrongly_is_refused(named: dict[str, Any], problem: str) -> None:
    pytest.importorskip("presidio_analyzer")
    with pytest.raises(UsageError, match=problem):
        finder_of(named)
    assert finder_of(False) is None


passages = st.builds(
    lambda kind, start, size: Identifier(kind, start, start + size),
    st.sampled_from("abc"), st.integers(0, 30), st.integers(1, 9),
)  # fmt: skip


@given(st.lists(passages))
def test_passages_become_apart_and_cover_the_same(found: list[Identifier]) -> None:
    alone = apart(found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(alone))
    covered = {place for one in found for place in range(one.start, one.end)}
    assert covered == {place for one in alone for place in range(one.start, one.end)}


def test_texts_are_changed_wherever_they_are() -> None:
    value = [{"role": "a", "n": 1, "parts": ["b", None, ["c"]]}, True, 2.5]
    assert in_texts(value, str.upper) == [{"role": "A", "n": 1, "parts": ["B", None, ["C"]]}, True, 2.5]  # fmt: skip
