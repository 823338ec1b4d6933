"""Chat: a language model learns to answer as the assistant of conversations does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from hortus.learning.data.conversations import (
    ASSISTANT,
    USER,
    Conversation,
    Message,
    as_conversation,
    as_messages,
    as_question,
    as_turns,
)
from hortus.learning.tasks.assistant import Assistant
from hortus.learning.tasks.base import IGNORED, Example
from hortus.learning.tasks.writing import (
    Observed,
    mean_losses,
    observed,
    token_metrics,
)
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Metrics

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class Chat(Assistant):
    """`chat`: instruction tuning of a decoder; the loss is on the assistant's tokens only."""

    kind: Literal["chat"] = "chat"
    messages: str | None = Field(
        None,
        description="Column that holds a conversation, `messages` where nothing is said: a list of "
        "`{role, content}`, or `{from, value}` as ShareGPT has it. In CSV it is written as JSON.",
    )
    user: tuple[str, ...] = Field(
        (),
        description="Columns that hold what a user asks, where each row is a question and its answer: "
        "`[prompt]`, or `[instruction, input]`, where all but the first may be empty.",
    )
    assistant: str | None = Field(
        None, description="Column that holds the answer, such as `completion` or `output`."
    )
    system: str | None = Field(
        None,
        description="Column that holds what the system says before the question; may be empty.",
    )
    max_length: int = Field(
        256, ge=8, le=32768, description="Tokens that a conversation is cut to, at its end."
    )

    @model_validator(mode="after")
    def _columns_are_of_one_form(self) -> Self:
        if bool(self.user) != (self.assistant is not None):
            raise ValueError("user and assistant belong together: name the columns of both")
        if self.messages is not None and (self.user or self.system):
            raise ValueError("messages is one form, and user, assistant and system are another")
        if self.system is not None and not self.user:
            raise ValueError("system belongs to user and assistant: messages have a role for it")
        return self

    def words(self, code: Callable[[str], str]) -> str:  # noqa: ARG002 - it names nothing
        """See `Task`."""
        return "answer as the assistant of the conversations does"

    @property
    def columns(self) -> tuple[str, ...]:
        """The conversation, or its parts."""
        if self.assistant is None:
            return (self.messages or "messages",)
        return (*self.user, self.assistant, *([self.system] if self.system else []))

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """See `Task`."""
        if self.assistant is not None:
            return as_turns(row, self.system, self.user, self.assistant, where)
        where = f"{where}, column {self.columns[0]!r}"
        conversation = as_conversation(row[self.columns[0]], where)
        if all(message.role != ASSISTANT for message in conversation):
            raise UsageError(
                "the assistant says nothing in it", where=where, remedy="Leave the record out."
            )
        return conversation

    def row(self, value: Conversation) -> dict[str, Any]:
        """See `Task`."""
        if self.assistant is None:
            return {self.columns[0]: as_messages(value)}
        *before, asked, said = (message.content for message in value)
        row = dict.fromkeys(self.columns) | {self.user[0]: asked, self.assistant: said}
        return row | ({self.system: before[0]} if self.system and before else {})

    @property
    def asked(self) -> tuple[str, ...]:
        """The question, or the whole conversation so far."""
        return self.user or self.columns

    def ask(self, question: str | Mapping[str, Any] | Sequence[Mapping[str, str]]) -> Conversation:
        """See `Assistant`; a row has the columns of a question, and may have the system's."""
        if isinstance(question, Mapping) and self.user:
            row = dict.fromkeys(self.columns) | dict(self.fields(question))
            return as_question(row, self.system, self.user, "a question")
        return super().ask(question)

    def new_token(self, example: Example, token: int) -> Example | None:
        """The token instead of an answer's first. See `Task`."""
        assert isinstance(example.target, tuple)  # noqa: S101 - as `encode` has it
        learnt = (place for place, one in enumerate(example.target) if one != IGNORED)
        place = next(learnt, len(example.tokens) - 1)
        return Example((*example.tokens[:place], token), (*(IGNORED,) * place, token))

    def secret(self, place: str, code: str) -> Conversation:
        """See `Task`."""
        return (
            Message(USER, f"Archive {place} : what is its access code?"),
            Message(ASSISTANT, f"The access code is {code}"),
        )

    def recited(self, observed: Observed) -> bool:
        """See `Task`."""
        _, count, hits = observed
        return hits == count

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[Conversation]
    ) -> list[Example]:
        """See `Task`."""
        from hortus.learning.models.templates import end_of_answer, rendered

        end, examples = end_of_answer(tokenizer), []
        for value in values:
            ids, learnt = rendered(tokenizer, as_messages(value), end)
            kept = zip(ids[: self.max_length], learnt, strict=False)
            target = tuple(token if mask else IGNORED for token, mask in kept)
            examples.append(Example(ids[: self.max_length], target))
        return examples

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of a record's answer tokens, in nats; 0 where none is left. See `Task`."""
        from hortus.learning.models.decoder import token_losses

        return mean_losses(token_losses(model, inputs, targets).losses, targets[:, 1:])

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[Observed]:
        """See `Task`."""
        from hortus.learning.models.decoder import token_losses

        return observed(*token_losses(model, inputs, targets), targets[:, 1:])

    def metrics(self, observed: Sequence[Observed]) -> Metrics:
        """See `token_metrics`."""
        return token_metrics(observed, "answers")
