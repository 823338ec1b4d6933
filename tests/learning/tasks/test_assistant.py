from pathlib import Path

import pytest
from helpers.tiny_models import save_for_task

from hortus.learning.data.conversations import Message
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.assistant import Assistant
from hortus.learning.tasks.chat import Chat
from hortus.learning.tasks.preferences import Preferences
from hortus.runtime.errors import UsageError

MESSAGES = [
    {"role": "system", "content": "the sky"},
    {"role": "user", "content": "is"},
]


@pytest.mark.parametrize(
    "task", [Chat(), Preferences(), Chat(user=("prompt",), assistant="answer")]
)
def test_a_conversation_is_asked_as_it_is_learnt(task: Assistant, tmp_path: Path) -> None:
    assert task.writes
    assert task.converses
    assert task.ask(MESSAGES) == (Message("system", "the sky"), Message("user", "is"))
    assert task.ask({task.asked[0]: "is"}) == task.ask("is") == (Message("user", "is"),)
    tokenizer = load_tokenizer(save_for_task("llama", tmp_path))
    task.check_tokenizer(tokenizer)
    prompt = tokenizer.decode(task.prompt(tokenizer, task.ask("is")))
    assert prompt == "[CLS] [UNK] is [SEP] [CLS] [UNK]"
    with pytest.raises(UsageError, match="empty"):
        task.ask(" ")
