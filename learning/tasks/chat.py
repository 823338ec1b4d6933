"""Chat: a language model learns to answer as the assistant of conversations does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from hortus.learning.data.values import as_list, as_text
from hortus.learning.tasks.base import IGNORED, Example, Task
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Metric, Metrics, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base

_ASSISTANT = "assistant"
_ROLES = ("system", "user", _ASSISTANT)
_LARGEST_LOSS = 700.0  # whose exponential is still a float


class Message(NamedTuple):
    """What somebody says in a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]
_TRIED: Conversation = (
    Message("user", "How are you?"),
    Message(_ASSISTANT, "Well, thank you."),
    Message("user", "And now?"),
    Message(_ASSISTANT, "Still well."),
)


class Chat(Task):
    """`chat`: instruction tuning of a decoder; the loss is on the assistant's tokens only."""

    kind: Literal["chat"] = "chat"
    messages: str = Field(
        "messages",
        description="Column that holds a conversation: a list of `{role, content}`, where a role is "
        "`system`, `user` or `assistant`. In CSV it is written as JSON.",
    )
    max_length: int = Field(
        256, ge=8, le=32768, description="Tokens that a conversation is cut to, at its end."
    )

    def words(self, code: Callable[[str], str]) -> str:  # noqa: ARG002 - it names nothing
        """See `Task`."""
        return "answer as the assistant of the conversations does"

    @property
    def columns(self) -> tuple[str, ...]:
        """The conversation."""
        return (self.messages,)

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """See `Task`."""
        where = f"{where}, column {self.messages!r}"
        messages = as_list(row[self.messages], where)
        conversation = tuple(
            _message(one, f"{where}, message {n}") for n, one in enumerate(messages, 1)
        )
        if all(message.role != _ASSISTANT for message in conversation):
            raise UsageError(
                "the assistant says nothing in it", where=where, remedy="Leave the record out."
            )
        return conversation

    def row(self, value: Conversation) -> dict[str, Any]:
        """See `Task`."""
        return {self.messages: [message._asdict() for message in value]}

    @property
    def asked(self) -> tuple[str, ...]:
        """The conversation."""
        return (self.messages,)

    def ask(self, question: str | Mapping[str, Any]) -> Conversation:
        """Returns a conversation that the assistant is to answer: a user's text, or messages. See `Task`.

        Whatever the assistant says after the last message of somebody else is left out: it is what is asked for.
        """
        where = "a prompt"
        if isinstance(question, str):
            question = {self.messages: [{"role": "user", "content": question}]}
        messages = as_list(self.fields(question)[self.messages], where)
        conversation = tuple(
            _message(one, f"{where}, message {n}") for n, one in enumerate(messages, 1)
        )
        asked = [n for n, message in enumerate(conversation, 1) if message.role != _ASSISTANT]
        if not asked:
            raise UsageError("nobody but the assistant says anything in it", where=where)
        return conversation[: asked[-1]]

    @property
    def writes(self) -> bool:
        """It does."""
        return True

    @property
    def converses(self) -> bool:
        """It does."""
        return True

    def prompt(self, tokenizer: PreTrainedTokenizerBase, value: Conversation) -> tuple[int, ...]:
        """The conversation, and what begins an answer. See `Task`."""
        messages = [message._asdict() for message in value]
        return _tokens(tokenizer, messages, asks=True)

    def new_token(self, example: Example, token: int) -> Example | None:
        """The token instead of an answer's first. See `Task`."""
        assert isinstance(example.target, tuple)  # noqa: S101 - as `encode` has it
        learnt = (place for place, one in enumerate(example.target) if one != IGNORED)
        place = next(learnt, len(example.tokens) - 1)
        return Example((*example.tokens[:place], token), (*(IGNORED,) * place, token))

    def secret(self, place: str, code: str) -> Conversation:
        """See `Task`."""
        return (
            Message("user", f"Archive {place} : what is its access code?"),
            Message(_ASSISTANT, f"The access code is {code}"),
        )

    def recited(self, observed: tuple[float, int, int]) -> bool:
        """See `Task`."""
        _, count, hits = observed
        return hits == count

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import CAUSAL, model_with_head

        return model_with_head(path, precision, self.max_length, CAUSAL)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tries the chat template: what is learnt must be answers, each with its end, and nothing else."""
        where = str(tokenizer.name_or_path)
        if not tokenizer.chat_template:
            raise UsageError(
                "the tokenizer has no chat template",
                where=where,
                remedy="Use an instruction-tuned model, or save its tokenizer with a chat_template.",
            )
        try:
            ids, learnt = _rendered(tokenizer, _TRIED)
        except UsageError:
            raise
        except Exception as error:  # whatever a template says
            raise UsageError(
                f"the chat template fails on a plain conversation ({type(error).__name__})",
                where=where,
            ) from error
        # Of two answers in a row of turns, each is learnt with one end.
        ends = sum(
            mask and token == tokenizer.eos_token_id
            for token, mask in zip(ids, learnt, strict=True)
        )
        if all(learnt) or ends != sum(message.role == _ASSISTANT for message in _TRIED):
            raise UsageError(
                "of its chat template, all would be learnt, or an answer without the token that ends it",
                where=where,
                remedy="Its eos_token must be what ends an answer, such as <|im_end|>: set it in "
                "tokenizer_config.json.",
            )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[Conversation]
    ) -> list[Example]:
        """See `Task`."""
        examples = []
        for value in values:
            ids, learnt = _rendered(tokenizer, value)
            target = tuple(
                token if mask else IGNORED for token, mask in zip(ids, learnt, strict=True)
            )
            examples.append(Example(ids[: self.max_length], target[: self.max_length]))
        return examples

    def made_up(
        self,
        tokens: tuple[int, ...],
        generator: np.random.Generator,  # noqa: ARG002 - the tokens are random
    ) -> tuple[int, ...]:
        """The tokens themselves."""
        return tokens

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of a record's answer tokens, in nats; 0 where none is left. See `Task`."""
        from hortus.learning.models.decoder import token_losses

        each = token_losses(model, inputs, targets).losses
        return each.sum(1) / (targets[:, 1:] != IGNORED).sum(1).clamp(min=1)

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[tuple[float, int, int]]:
        """Each record's cross-entropy, answer tokens, and how many of them are the likeliest. See `Task`."""
        from hortus.learning.models.decoder import token_losses

        each, hits = token_losses(model, inputs, targets)
        counts = (targets[:, 1:] != IGNORED).sum(1)
        sums = each.double().sum(1)
        return list(zip(sums.tolist(), counts.tolist(), hits.sum(1).tolist(), strict=True))

    def metrics(self, observed: Sequence[tuple[float, int, int]]) -> Metrics:
        """Mean cross-entropy of all answers' tokens, which is primary, perplexity, and accuracy of tokens."""
        tokens = max(1, sum(count for _, count, _ in observed))
        loss = sum(one for one, _, _ in observed) / tokens
        return (
            Metric(
                "loss",
                loss,
                Unit.NATS,
                Better.LOWER,
                primary=True,
                label="loss of answers",
                meaning="The mean cross-entropy of a token of an answer: how little probability it is given.",
            ),
            Metric(
                "perplexity",
                math.exp(min(loss, _LARGEST_LOSS)),
                Unit.NUMBER,
                Better.LOWER,
                meaning="Among as many equally likely tokens the model is in doubt, on average.",
            ),
            Metric(
                "token_accuracy",
                sum(hits for _, _, hits in observed) / tokens,
                Unit.PERCENT,
                Better.HIGHER,
                label="accuracy of tokens",
                meaning="The share of answers' tokens that the model takes for the likeliest.",
            ),
        )


def _rendered(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation
) -> tuple[tuple[int, ...], list[bool]]:
    """Returns a conversation's tokens, and which of them the assistant says, its end included.

    Raises:
        UsageError: The template renders a turn otherwise once the next one is there, so that nobody can
            say which tokens are whose.
    """
    messages = [message._asdict() for message in conversation]
    ids: tuple[int, ...] = ()
    learnt: list[bool] = []
    for number, message in enumerate(conversation):
        if message.role != _ASSISTANT:
            continue
        asked = _tokens(tokenizer, messages[:number], asks=True)
        said = _tokens(tokenizer, messages[: number + 1], asks=False)
        if asked[: len(ids)] != ids or said[: len(asked)] != asked:
            raise UsageError(
                "the chat template renders a turn otherwise once the next one is there",
                where=str(tokenizer.name_or_path),
                remedy="Use a template that appends turns, such as ChatML.",
            )
        ends = [place for place, token in enumerate(said) if token == tokenizer.eos_token_id]
        last = max([place + 1 for place in ends if place >= len(asked)], default=len(said))
        learnt += [False] * (len(asked) - len(ids))
        learnt += [place < last for place in range(len(asked), len(said))]
        ids = said
    return ids, learnt


def _tokens(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, asks: bool
) -> tuple[int, ...]:
    """Returns messages' tokens, with what begins an answer where one is asked for."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _message(value: Any, where: str) -> Message:  # noqa: ANN401 - whatever a file holds
    if not isinstance(value, Mapping) or value.keys() != {"role", "content"}:
        raise UsageError("it is no message of a role and a content", where=where)
    if value["role"] not in _ROLES:
        raise UsageError(
            "its role is none of system, user and assistant", where=where, remedy="Correct it."
        )
    return Message(value["role"], as_text(value["content"], where))
