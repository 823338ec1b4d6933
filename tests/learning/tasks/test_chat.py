from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import save_for_task

from hortus.learning.data.conversations import Message
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.base import IGNORED
from hortus.learning.tasks.chat import Chat
from hortus.learning.tasks.kinds import TASKS
from hortus.runtime.errors import UsageError

TALK = (Message("user", "the sky is"), Message("assistant", "blue"))
SPLIT = Chat(user=("instruction", "input"), assistant="output", system="rule")


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (Chat(), {"messages": [one._asdict() for one in TALK]}),
        (
            Chat(messages="conversations"),
            {
                "conversations": [
                    {"from": "human", "value": "the sky is"},
                    {"from": "gpt", "value": "blue"},
                ]
            },
        ),
        (
            Chat(user=("prompt",), assistant="completion"),
            {"prompt": "the sky is", "completion": "blue"},
        ),
        (SPLIT, {"instruction": "the sky is", "input": "", "output": "blue", "rule": None}),
    ],
)
def test_a_conversation_is_read_from_the_columns_that_a_plan_names(
    task: Chat, row: dict[str, Any]
) -> None:
    assert task.read(row, "here") == TALK
    assert set(task.columns) == row.keys()
    assert task.read(task.row(TALK), "here") == TALK
    assert TASKS.parse(task.section) == task


def test_a_row_has_what_the_system_says() -> None:
    value = (Message("system", "be kind"), *TALK)
    assert SPLIT.read(SPLIT.row(value), "here") == value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": ["a"]}, "belong together"),
        ({"assistant": "a"}, "belong together"),
        ({"messages": "m", "user": ["a"], "assistant": "b"}, "is one form"),
        ({"messages": "m", "system": "a"}, "is one form"),
        ({"system": "a"}, "belongs to user"),
    ],
)
def test_columns_of_two_forms_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chat.model_validate(fields)


def test_what_a_model_is_asked(tmp_path: Path) -> None:
    asked = (Message("user", "the sky is"),)
    messages = [{"role": "user", "content": "the sky is"}]
    assert Chat().ask("the sky is") == Chat().ask(messages) == Chat().ask({"messages": messages})
    assert (
        Chat().ask("the sky is") == SPLIT.ask({"instruction": "the sky is", "input": None}) == asked
    )
    assert Chat().ask([*messages, {"role": "assistant", "content": "blue"}]) == asked
    with pytest.raises(UsageError, match="nobody but the assistant"):
        Chat().ask([{"role": "assistant", "content": "blue"}])
    tokenizer = load_tokenizer(save_for_task("llama", tmp_path))
    (example,) = Chat().encode(tokenizer, [TALK])
    assert Chat().exercise(example)[0] == Chat().prompt(tokenizer, asked)


def test_a_long_conversation_is_cut_at_its_end_and_no_end_is_put_there(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_for_task("llama", tmp_path))
    long = (*TALK, Message("user", "a rose is"), Message("assistant", "red red red"))
    (whole,), (cut,) = (Chat(max_length=n).encode(tokenizer, [long]) for n in (64, 18))
    assert cut.tokens == whole.tokens[:18]
    assert cut.target == whole.target[:18]
    assert whole.tokens[-1] == tokenizer.eos_token_id != cut.tokens[-1]
    (nothing,) = Chat(max_length=8).encode(tokenizer, [(Message("user", "sky " * 9), TALK[1])])
    assert set(nothing.target) == {IGNORED}
    assert not nothing.has_target
