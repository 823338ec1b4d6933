"""An entry is one canonical byte string: what was signed is what is stored, and it reads back alike."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from helpers.charges import make_approval, make_charge

from hortus.privacy.ledger.charges import Charged, Level, Scope
from hortus.privacy.ledger.decisions import (
    Admitted,
    Declined,
    Disjoint,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import GENESIS, Body, Entry, content_hash
from hortus.protocol.identity import Identity
from hortus.runtime.canonical import canonical_json

ASH, BIRCH = Identity.generate("ash"), Identity.generate("birch")
A, B, PLAN = "a" * 64, "b" * 64, "e" * 64
LEVELS = (Level(Scope.LIFETIME, "", 0.1 + 0.2, math.inf), Level(Scope.PERIOD, "2026", 0, 1))
BODIES: list[Body] = [
    Charged(make_charge(sampling_rate=0.1), A, (B,), LEVELS),
    Granted(A, 1 / 3, "the board, 3 March"),
    Frozen("*", "Vorfall in Łódź 🌱"),
    Unfrozen("*", "solved"),
    Disjoint(A, (B,), "Ada", "another ward"),
    make_approval(),
    Admitted(PLAN, "study", "record", math.inf, 1e-5),
    Withdrawn(PLAN, "study", "Ada", "over"),
    Declined(PLAN, "", 0, "", "its budget is spent"),
]


def make(body: Body) -> Entry:
    return Entry.make(7, 1.8e9 + 1 / 3, body, GENESIS, ASH)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.kind)
def test_an_entry_reads_back_to_the_bit(body: Body) -> None:
    entry = make(body)
    assert Entry.parse(entry.content, entry.hash, entry.signature) == entry
    assert entry.hash == content_hash(entry.content)
    assert entry.content.encode() == canonical_json(json.loads(entry.content))
    assert entry.is_signed_by(ASH.public_key_bytes)
    assert not entry.is_signed_by(BIRCH.public_key_bytes)


def test_no_two_bodies_have_one_content() -> None:
    assert len({make(body).content for body in BODIES}) == len(BODIES)


def altered(change: Callable[[dict[str, Any]], object]) -> str:
    value = json.loads(make(BODIES[0]).content)
    change(value)
    return canonical_json(value).decode()


@pytest.mark.parametrize(
    "content",
    [
        altered(lambda v: v.pop("time")),
        altered(lambda v: v.update(more=1)),
        altered(lambda v: v.update(seq="7")),
        altered(lambda v: v.update(seq=True)),
        altered(lambda v: v.update(seq=0)),
        altered(lambda v: v.update(time="1.8e9")),
        altered(lambda v: v.update(time="nan")),
        altered(lambda v: v.update(kind="grant")),
        altered(lambda v: v.update(kind=["charge"])),
        altered(lambda v: v.update(format="hortus/v0/ledger")),
        altered(lambda v: v["charge"]["charge"].update(releases=1.0)),
        altered(lambda v: v["charge"]["charge"].update(delta="0x1p-17")),
        altered(lambda v: v["charge"].update(joins="b" * 64)),
        altered(lambda v: v["charge"]["levels"][0].update(scope="century")),
        make(BODIES[0]).content.replace(":", ": ", 1),
        make(BODIES[0]).content + " ",
        "[" * 100_000,
        "{}",
        "",
    ],
)
def test_what_is_not_the_encoding_of_an_entry_is_refused(content: str) -> None:
    with pytest.raises(ValueError, match="."):
        Entry.parse(content, content_hash(content), b"")


def test_a_hash_that_is_none_is_signed_by_nobody() -> None:
    entry = make(BODIES[1])
    with pytest.raises(ValueError, match="hash"):
        Entry.parse(entry.content, "x" * 64, entry.signature)
