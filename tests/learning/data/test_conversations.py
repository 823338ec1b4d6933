from typing import Any

import pytest

from hortus.learning.data.conversations import (
    Message,
    as_conversation,
    as_messages,
    as_question,
    as_turns,
)
from hortus.runtime.errors import UsageError

TALK = (Message("system", "Be kind."), Message("user", "Hello?"), Message("assistant", "Yes."))
FORMS: dict[str, Any] = {
    "messages": as_messages(TALK),
    "turns": [{"from": one.role, "value": one.content} for one in TALK],
    "ShareGPT's names": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hello?"},
        {"from": "gpt", "value": "Yes."},
    ],
    "a table's empty keys": [
        {**one, "name": None, "tool_calls": None} for one in as_messages(TALK)
    ],
    "JSON in a cell": '[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}, '
    '{"role": "model", "content": "Yes."}]',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_conversation(form: str) -> None:
    assert as_conversation(FORMS[form], "here") == TALK


@pytest.mark.parametrize(
    "wrong",
    [
        "secret",
        [],
        ["secret"],
        [{"role": "user"}],
        [{"role": "secret", "content": "a"}],
        [{"role": "user", "content": ["secret"]}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": "secret", "weight": 0}],
        [{"role": "user", "value": "secret"}],
        [{"role": ["user"], "content": "secret"}],
    ],
)
def test_what_is_no_conversation_is_refused_without_its_text(wrong: Any) -> None:
    with pytest.raises(UsageError, match="here") as caught:
        as_conversation(wrong, "here")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("empty", [None, "", " "])
def test_a_question_has_an_input_where_there_is_one(empty: str | None) -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "rule": "Be brief."}
    with_both = as_turns(row, "rule", ("instruction", "input"), "output", "here")
    assert with_both == (
        Message("system", "Be brief."),
        Message("user", "Add.\n\n1 and 2"),
        Message("assistant", "3"),
    )
    row |= {"input": empty, "rule": empty}
    assert as_question(row, "rule", ("instruction", "input"), "here") == (Message("user", "Add."),)
    with pytest.raises(UsageError, match="'instruction'"):
        as_question(row | {"instruction": empty}, None, ("instruction",), "here")
    with pytest.raises(UsageError, match="'output'"):
        as_turns(row | {"output": empty}, None, ("instruction",), "output", "here")
