"""What all sites of a session must see alike has one digest, and is refused where it cannot be one session's."""

from typing import Any

import pytest

from hortus.protocol.descriptor import Descriptor
from hortus.protocol.limits import MAX_SITES, MAX_WORDS, PROTOCOL_VERSION
from hortus.runtime.errors import UsageError

FIELDS: dict[str, Any] = {
    "run": "a" * 32,
    "session": "b" * 32,
    "contract": "c" * 64,
    "cohort": ["ash", "birch"],
    "first_round": 0,
    "dimension": 8,
    "scale": 1024,
}
OTHERS: list[dict[str, Any]] = [
    {"run": "d" * 32},
    {"session": "d" * 32},
    {"contract": "d" * 64},
    {"cohort": ["ash", "cedar"]},
    {"first_round": 1},
    {"dimension": 9},
    {"scale": 1025},
    {"ring_bits": 24},
]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_every_field_is_in_the_digest(changes: dict[str, Any]) -> None:
    one, other = Descriptor(**FIELDS), Descriptor(**FIELDS | changes)
    assert len(one.digest()) == 32
    assert one.digest() == Descriptor(**FIELDS).digest() != other.digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": PROTOCOL_VERSION + 1},
        {"cohort": ["birch", "ash"]},
        {"cohort": ["ash", "ash"]},
        {"cohort": ["ash"]},
        {"cohort": [f"s{number:05}" for number in range(MAX_SITES + 1)]},
        {"dimension": 0},
        {"dimension": MAX_WORDS + 1},
        {"scale": 0},
        {"scale": 2**31},
        {"ring_bits": 16},
        {"session": "B" * 32},
        {"first_round": -1},
        {"more": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_be_a_session_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        Descriptor.parse(FIELDS | changes, "descriptor")
