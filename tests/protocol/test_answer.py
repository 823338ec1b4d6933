"""A site's answer counts for the question it was given to, in its own name alone."""

from dataclasses import replace
from typing import Any

import pytest

from hortus.protocol.answer import CHALLENGE_BYTES, Answer
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.errors import ProtocolError
from hortus.runtime.names import SERVER

ASH, BIRCH = Identity.generate("ash"), Identity.generate("birch")
ROSTER = Roster(
    {one.site: one.public_key_bytes for one in (ASH, BIRCH)},
    Identity.generate(SERVER).public_key_bytes,
)
CHALLENGE, CONTRACT = b"c" * CHALLENGE_BYTES, b'{"name":"study"}'


@pytest.mark.parametrize(("refusal", "again"), [("", 0), ("its budget is spent", 0), ("", 3)])
def test_an_answer_is_its_sites_own(refusal: str, again: int) -> None:
    answer = Answer.sign(ASH, CHALLENGE, CONTRACT, refusal, again)
    answer.verify(ROSTER, CHALLENGE, CONTRACT)
    assert (answer.site, answer.refusal, answer.again) == ("ash", refusal, again)


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "birch"},
        {"site": "cedar"},
        {"site": SERVER},
        {"refusal": ""},
        {"refusal": "no. "},
        {"again": 1},
        {"signature": bytes(64)},
        {"signature": b""},
    ],
    ids=str,
)
def test_a_yes_is_not_made_of_a_no_nor_in_anothers_name(changes: dict[str, Any]) -> None:
    answer = replace(Answer.sign(ASH, CHALLENGE, CONTRACT, "no"), **changes)
    with pytest.raises(ProtocolError):
        answer.verify(ROSTER, CHALLENGE, CONTRACT)


@pytest.mark.parametrize(
    ("challenge", "contract"), [(b"d" * CHALLENGE_BYTES, CONTRACT), (CHALLENGE, CONTRACT + b" ")]
)
def test_an_answer_to_another_question_is_worth_nothing(challenge: bytes, contract: bytes) -> None:
    answer = Answer.sign(ASH, challenge, contract, "")
    with pytest.raises(ProtocolError):
        answer.verify(ROSTER, CHALLENGE, CONTRACT)
