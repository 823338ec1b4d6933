"""What the tasks share whose model is an assistant: a decoder with a chat template, which continues a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hortus.learning.data.conversations import (
    ASSISTANT,
    USER,
    Conversation,
    Message,
    as_conversation,
    as_messages,
)
from hortus.learning.data.values import as_text
from hortus.learning.tasks.writing import Compared
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base


class Assistant(Compared):
    """A task whose values, as `ask` makes them, are conversations."""

    @property
    def converses(self) -> bool:
        """It does."""
        return True

    @property
    def asked(self) -> tuple[str, ...]:
        """The question, or the whole conversation so far."""
        return self.columns[:1]

    def ask(self, question: str | Mapping[str, Any] | Sequence[Mapping[str, str]]) -> Conversation:
        """Returns a conversation that the assistant is to answer.

        Whatever the assistant says after the last message of somebody else is left out: it is what is asked for.

        Args:
            question: What the user says; a list of messages; or a row with either.
        """
        where = "a prompt"
        given = self.fields(question)[self.asked[0]] if isinstance(question, Mapping) else question
        if isinstance(given, str) and not given.lstrip().startswith("[{"):
            return (Message(USER, as_text(given, where)),)
        conversation = as_conversation(given, where)
        others = [n for n, message in enumerate(conversation, 1) if message.role != ASSISTANT]
        if not others:
            raise UsageError("nobody but the assistant says anything in it", where=where)
        return conversation[: others[-1]]

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import CAUSAL, model_with_head

        return model_with_head(path, precision, self.max_length, CAUSAL)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tries the chat template: what is learnt must be answers, each with its end, and nothing else."""
        from hortus.learning.models.templates import check_template

        check_template(tokenizer)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, value: Conversation) -> tuple[int, ...]:
        """The conversation, and what begins an answer. See `Task`."""
        from hortus.learning.models.templates import asking

        return asking(tokenizer, as_messages(value))

    def made_up(
        self,
        tokens: tuple[int, ...],
        generator: np.random.Generator,  # noqa: ARG002 - the tokens are random
    ) -> tuple[int, ...]:
        """The tokens themselves."""
        return tokens
