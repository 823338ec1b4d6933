"""Preferences: a language model learns which of two answers to a question people prefer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from hortus.learning.data.conversations import (
    ASSISTANT,
    USER,
    Conversation,
    Message,
    as_conversation,
    as_messages,
)
from hortus.learning.data.values import as_text
from hortus.learning.tasks.assistant import Assistant
from hortus.learning.tasks.base import IGNORED, Example
from hortus.protocol.numbers import Positive
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Chance, Metric, Metrics, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

_NOT_OF_A_UNIT = {
    "kto": "its reference point is a mean over the other records of a batch",
    "bco": "its threshold is a running mean over all records",
}


class Preference(NamedTuple):
    """A record: a question, the answer that is preferred, and the other one."""

    question: Conversation
    chosen: str
    rejected: str


class Preferences(Assistant):
    """`preferences`: direct preference optimisation; the reference is the base model without its adapter."""

    kind: Literal["preferences"] = "preferences"
    question: str = Field(
        "prompt", description="Column that holds the question: a text, or a list of messages."
    )
    chosen: str = Field("chosen", description="Column that holds the preferred answer.")
    rejected: str = Field("rejected", description="Column that holds the other answer.")
    loss: Literal["dpo", "ipo"] = Field(
        "dpo", description="`dpo` (Rafailov et al. 2023), or `ipo` (Azar et al. 2023)."
    )
    beta: Positive = Field(
        0.1,
        description="β: how much it costs to depart from the base model; the larger, the nearer it stays.",
    )
    max_length: int = Field(
        256,
        ge=8,
        le=32768,
        description="Tokens that a question with an answer is cut to, at its end.",
    )

    @field_validator("loss", mode="before")
    @classmethod
    def _separates_by_unit(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a plan says
        if isinstance(value, str) and value in _NOT_OF_A_UNIT:
            raise ValueError(
                f"{value} cannot be private: {_NOT_OF_A_UNIT[value]}, so that what a unit adds would depend on "
                "others; use dpo or ipo"
            )
        return value

    @property
    def further_lengths(self) -> tuple[int, ...]:
        """The question with the other answer."""
        return (self.max_length,)

    def words(self, code: Callable[[str], str]) -> str:  # noqa: ARG002 - it names nothing
        """See `Task`."""
        return "prefer, of two answers to a question, the one that the records prefer"

    @property
    def columns(self) -> tuple[str, ...]:
        """The question and its two answers."""
        return self.question, self.chosen, self.rejected

    def read(self, row: Mapping[str, Any], where: str) -> Preference:
        """See `Task`."""
        answers = [_answer(row[one], f"{where}, column {one!r}") for one in self.columns[1:]]
        question = _question(row[self.question], f"{where}, column {self.question!r}")
        return Preference(question, *answers)

    def row(self, value: Preference) -> dict[str, Any]:
        """See `Task`."""
        question = as_messages(value.question)
        return {self.question: question, self.chosen: value.chosen, self.rejected: value.rejected}

    def canary(self, value: Preference, generator: np.random.Generator) -> Preference:
        """Random digits are preferred to the answer that is."""
        digits = " ".join(map(str, generator.integers(0, 10, 8)))
        return value._replace(chosen=digits, rejected=value.chosen)

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[Preference]
    ) -> list[Example]:
        """The question is the same in both of a record's sequences, and not learnt. See `Task`."""
        from hortus.learning.models.templates import asking, end_of_answer, rendered

        end, examples = end_of_answer(tokenizer), []
        for value in values:
            question = as_messages(value.question)
            start = len(asking(tokenizer, question))
            chosen, rejected = (
                rendered(tokenizer, [*question, Message(ASSISTANT, said)._asdict()], end)[0]
                for said in (value.chosen, value.rejected)
            )
            target = ((IGNORED,) * start + chosen[start:])[: self.max_length]
            both = (chosen[: self.max_length], rejected[: self.max_length])
            examples.append(Example(both[0], target, further=(both[1],)))
        return examples

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """−ln σ(βh) of `dpo`, or (h − 1/2β)² of `ipo`, h being how much more the adapter prefers. See `Task`."""
        chosen, rejected = self._gains(model, inputs, targets)
        return self._losses(chosen - rejected)

    def _losses(self, more: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import logsigmoid

        if self.loss == "ipo":
            return (more - 1 / (2 * self.beta)).square()
        return -logsigmoid(self.beta * more)

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[tuple[float, float, float]]:
        """The loss, and what the adapter makes of the likelihoods of both answers. See `Task`."""
        chosen, rejected = self._gains(model, inputs, targets)
        of_each = (self._losses(chosen - rejected), chosen, rejected)
        return list(zip(*(one.double().tolist() for one in of_each), strict=True))

    def metrics(self, observed: Sequence[tuple[float, float, float]]) -> Metrics:
        """Share of the records whose preferred answer has gained, which is primary, loss and margin."""
        count = max(1, len(observed))
        return (
            Metric(
                "accuracy",
                sum(
                    (chosen > rejected) + (chosen == rejected) / 2
                    for _, chosen, rejected in observed
                )
                / count,
                Unit.PERCENT,
                Better.HIGHER,
                primary=True,
                label="accuracy of preferences",
                meaning="The share of the records whose preferred answer has gained likelihood over the other one.",
                chance=Chance(0.5, "preferring either"),
            ),
            Metric(
                "loss",
                sum(loss for loss, *_ in observed) / count,
                Unit.NATS if self.loss == "dpo" else Unit.NUMBER,
                Better.LOWER,
            ),
            Metric(
                "margin",
                sum(self.beta * (chosen - rejected) for _, chosen, rejected in observed) / count,
                Unit.NUMBER,
                Better.HIGHER,
                meaning="β times what the preferred answer's log-likelihood has gained over the other one's.",
            ),
        )

    def _gains(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns by how much an adapter raises the log-likelihood of both answers, float32 (records,) each."""
        import torch

        from hortus.learning.models.decoder import token_losses
        from hortus.learning.models.switch import adapter_off

        def likelihoods() -> list[torch.Tensor]:
            return [-token_losses(model, *one).losses.sum(1) for one in both]

        both = _sequences(inputs, targets)
        with torch.no_grad(), adapter_off(model):
            reference = likelihoods()
        chosen, rejected = (own - base for own, base in zip(likelihoods(), reference, strict=True))
        return chosen, rejected


def _sequences(
    inputs: Mapping[str, Any], targets: torch.Tensor
) -> list[tuple[Mapping[str, Any], torch.Tensor]]:
    """Returns the model's arguments and the targets of the chosen and of the rejected answers."""
    import torch

    (rejected,) = inputs["further"]
    chosen = {name: value for name, value in inputs.items() if name != "further"}
    # Both begin with the question, which is not learnt.
    start = (targets == IGNORED).long().cumprod(1).sum(1, keepdim=True)
    places = torch.arange(rejected.shape[1], device=rejected.device)
    learnt = torch.where(places >= start, rejected, IGNORED)
    other = {"input_ids": rejected.clamp(min=0), "attention_mask": (rejected != IGNORED).long()}
    return [(chosen, targets), (other, learnt)]


def _question(value: Any, where: str) -> Conversation:  # noqa: ANN401 - whatever a file holds
    """Returns a conversation whose next message is the assistant's: a text, or a list of messages.

    Raises:
        UsageError: It is neither, or the assistant has spoken last.
    """
    if isinstance(value, str) and not value.lstrip().startswith("[{"):
        return (Message(USER, as_text(value, where)),)
    conversation = as_conversation(value, where)
    if conversation[-1].role == ASSISTANT:
        raise UsageError(
            "the assistant has answered already", where=where, remedy="End with the user."
        )
    return conversation


def _answer(value: Any, where: str) -> str:  # noqa: ANN401 - whatever a file holds
    """Returns an answer: a text, or messages of which the last is the assistant's."""
    if not isinstance(value, list):
        return as_text(value, where)
    conversation = as_conversation(value, where)
    if conversation[-1].role != ASSISTANT:
        raise UsageError("it does not end with what the assistant says", where=where)
    return conversation[-1].content
