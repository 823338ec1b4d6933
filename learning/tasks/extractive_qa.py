"""Extractive question answering: where in a text is the answer to a question?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from hortus.learning.data.values import as_number, as_text, is_missing
from hortus.learning.tasks.base import IGNORED, Example, Note, Task
from hortus.learning.tasks.squad import exact_match, f1
from hortus.protocol.plan import Agreement, Precision
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Metric, Metrics, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base

_START, _END = 1, 2  # bits of a token's target; 0 where an answer may be, and is not
_OVERLAP = 4  # windows share one token of so many


class AskedText(NamedTuple):
    """A record: a question, a text, and the place of the answer in it; of no answer it is empty."""

    question: str
    context: str
    start: int = 0
    end: int = 0

    @property
    def answer(self) -> str:
        """The answer's text."""
        return self.context[self.start : self.end]


class Answer(NamedTuple):
    """A model's answer.

    Attributes:
        text: As it stands in the context; empty where the model finds none.
        start: Position of its first character in the context.
        end: Position after its last character.
    """

    text: str
    start: int
    end: int


class ExtractiveQA(Task):
    """`extractive-qa`: the answer to a question as a span of a text; transformers' own head.

    A text that is too long is read by several windows, each with the question. They stay in the record's unit. The
    first token stands for "not here", and is what a window without the answer learns.
    """

    kind: Literal["extractive-qa"] = "extractive-qa"
    question: str = Field("question", description="Column that holds the question.")
    context: str = Field("context", description="Column that holds the text with the answer.")
    answer_text: str = Field(
        "answer", description="Column that holds the answer, as it stands in the text."
    )
    answer_start: str = Field(
        "answer_start",
        description="Column that holds the place of the answer's first character in the text, counted from 0.",
    )
    unanswerable: bool = Field(
        False,
        description="Whether some questions have no answer in their text, as in SQuAD 2: their answer is empty.",
    )
    max_length: int = Field(
        384, ge=32, le=4096, description="Tokens of a window: a question and a part of its text."
    )
    max_windows: int = Field(
        4,
        ge=1,
        le=64,
        description="Windows that a text is read by at most, each a quarter of `max_length` into the last one; "
        "what is beyond is cut off.",
    )
    longest_answer: int = Field(64, ge=1, le=512, description="Tokens of a model's answer at most.")

    def fit(self, plan: Agreement) -> None:
        """Refuses more windows than share a pass: a record's stay together."""
        if self.max_windows > plan.training.micro_batch:
            raise UsageError(
                f"{self.max_windows} windows are more than training.micro_batch, {plan.training.micro_batch}",
                where="task.max_windows",
                remedy="A record's windows share a pass: lower it, or raise training.micro_batch.",
            )

    @property
    def most_examples(self) -> int:
        """The windows."""
        return self.max_windows

    def words(self, code: Callable[[str], str]) -> str:  # noqa: ARG002 - it names nothing
        """See `Task`."""
        return "find the answer to a question in a text that is given with it"

    @property
    def columns(self) -> tuple[str, ...]:
        """Question, text, answer, and where it is."""
        return *self.asked, self.answer_text, self.answer_start

    @property
    def texts(self) -> tuple[str, ...]:
        """All but the place. Where masking moves an answer, the record is refused."""
        return *self.asked, self.answer_text

    def read(self, row: Mapping[str, Any], where: str) -> AskedText:
        """See `Task`."""
        asked = self._ask(row, where)
        if self.unanswerable and is_missing(row[self.answer_text]):
            return asked
        answer = as_text(row[self.answer_text], f"{where}, column {self.answer_text!r}")
        start = as_number(row[self.answer_start], f"{where}, column {self.answer_start!r}")
        if start < 0 or not asked.context.startswith(answer, int(start)) or start % 1:
            raise UsageError(
                f"the answer is not in the text at the character {self.answer_start!r} says",
                where=where,
                remedy="Count characters of the text, from 0, and copy the answer as it stands there.",
            )
        return asked._replace(start=int(start), end=int(start) + len(answer))

    def row(self, value: AskedText) -> dict[str, Any]:
        """See `Task`."""
        return {
            self.question: value.question,
            self.context: value.context,
            self.answer_text: value.answer,
            self.answer_start: value.start,
        }

    def canary(self, value: AskedText, generator: np.random.Generator) -> AskedText:
        """A word of the text that is not in the answer, at random."""
        if self.max_windows > 1:
            raise UsageError(
                "canaries are records of one window",
                where="task.max_windows",
                remedy="Set it to 1 for an attack.",
            )
        found = [match.span() for match in re.finditer(r"\w+", value.context)]
        others = [span for span in found if span[1] <= value.start or span[0] >= value.end]
        start, end = others[int(generator.integers(len(others)))] if others else (0, 0)
        return value._replace(start=start, end=end)

    @property
    def asked(self) -> tuple[str, ...]:
        """Question and text."""
        return self.question, self.context

    def ask(self, question: str | Mapping[str, Any]) -> AskedText:
        """See `Task`."""
        return self._ask(self.fields(question), "a question")

    def _ask(self, row: Mapping[str, Any], where: str) -> AskedText:
        question, context = (as_text(row[one], f"{where}, column {one!r}") for one in self.asked)
        return AskedText(question, context)

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import SPAN, model_with_head

        return model_with_head(path, precision, self.max_length, SPAN)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses a tokenizer that does not say where in a text its tokens are."""
        problem = None if tokenizer.is_fast else "it is not a fast one"
        try:
            if problem is None:
                (first, *_) = self.encode(tokenizer, [AskedText("a " * 999, "0 a 0", 2, 3)])
                problem = None if any(first.note.places) else "it says none"
        except Exception as error:  # noqa: BLE001 - whatever a tokenizer says of two texts
            problem = type(error).__name__
        if problem:
            raise UsageError(
                f"the tokenizer does not say where in a text its tokens are ({problem})",
                where=str(tokenizer.name_or_path),
                remedy="Use an encoder with a tokenizer.json.",
            )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[AskedText]
    ) -> list[Example]:
        """The windows of each record, one after the other. See `Task`."""
        return [example for value in values for example in self._windows(tokenizer, value)]

    def _windows(self, tokenizer: PreTrainedTokenizerBase, value: AskedText) -> list[Example]:
        found = tokenizer(
            _cut(tokenizer, value.question, self.max_length // 2),
            value.context,
            truncation="only_second",
            max_length=self.max_length,
            stride=self.max_length // _OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        kinds = found.get("token_type_ids") or [()] * len(found["input_ids"])
        windows = []
        for number, ids in enumerate(found["input_ids"][: self.max_windows]):
            owners = zip(found.sequence_ids(number), found["offset_mapping"][number], strict=True)
            places = tuple(tuple(place) if of == 1 else None for of, place in owners)
            windows.append(
                Example(
                    tuple(ids),
                    _target(value, places),
                    segments=tuple(kinds[number]),
                    continues=number > 0,
                    # Where in the context each token is; None elsewhere.
                    note=Note(value, places),
                )
            )
        return windows

    def made_up(self, tokens: tuple[int, ...], generator: np.random.Generator) -> tuple[int, ...]:
        """A random span."""
        start, end = sorted(generator.integers(0, len(tokens), 2).tolist())
        return tuple(_START * (n == start) + _END * (n == end) for n in range(len(tokens)))

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of the answer's first and last token among the text's, in nats. See `Task`."""
        import torch

        output = model(**inputs)
        possible = targets != IGNORED
        losses = []
        for bit, scores in ((_START, output.start_logits), (_END, output.end_logits)):
            shares = scores.float().masked_fill(~possible, -torch.inf).log_softmax(1)
            wanted = possible & ((targets & bit) > 0)
            losses.append(-torch.where(wanted, shares, 0).sum(1))
        return (losses[0] + losses[1]) / 2

    def observe(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        targets: torch.Tensor,  # noqa: ARG002 - the note has them
    ) -> list[np.ndarray]:
        """The scores of each token. See `Task`."""
        return self.answer(model, inputs)

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """The scores of each token as an answer's first and as its last, float32 (tokens, 2). See `Task`."""
        import torch

        output = model(**inputs)
        scores = torch.stack([output.start_logits, output.end_logits], 2)
        return list(scores.float().cpu().numpy())

    def replies(self, examples: Sequence[Example], answers: Sequence[np.ndarray]) -> list[Answer]:
        """The likeliest span among all windows of each question. See `Task`."""
        best: list[tuple[float, Answer]] = []
        for example, scores in zip(examples, answers, strict=True):
            found = self._best(example.note, scores)
            if not example.continues:
                best.append(found)
            elif found[0] > best[-1][0]:
                best[-1] = found
        nothing = Answer("", 0, 0)
        return [nothing if self.unanswerable and gain <= 0 else one for gain, one in best]

    def _best(self, note: Note, scores: np.ndarray) -> tuple[float, Answer]:
        """Returns a window's likeliest span, and by how much it is likelier than that there is none."""
        import numpy as np

        tokens = [token for token, place in enumerate(note.places) if place is not None]
        if not tokens:  # of a text of characters that the tokenizer drops
            return -np.inf, Answer("", 0, 0)
        starts, ends = scores[tokens].T
        spans = starts[:, None] + ends[None, :]
        length = np.arange(len(tokens)) - np.arange(len(tokens))[:, None]
        spans[(length < 0) | (length >= self.longest_answer)] = -np.inf
        first, last = np.unravel_index(spans.argmax(), spans.shape)
        start, end = note.places[tokens[first]][0], note.places[tokens[last]][1]
        gain = float(spans[first, last] - scores[0].sum())
        return gain, Answer(note.value.context[start:end], start, end)

    def judge(self, examples: Sequence[Example], observed: Sequence[np.ndarray]) -> Metrics:
        """See `Task`."""
        wanted = [example.note.value.answer for example in examples if not example.continues]
        found = (reply.text for reply in self.replies(examples, observed))
        return self.metrics(list(zip(wanted, found, strict=True)))

    def metrics(self, observed: Sequence[tuple[str, str]]) -> Metrics:
        """F1 and exact match, by SQuAD's rules.

        Args:
            observed: Of each record the answer, and what the model found; empty where there is none.
        """
        count = len(observed)
        return (
            Metric(
                "f1",
                sum(f1(*pair) for pair in observed) / count,
                Unit.PERCENT,
                Better.HIGHER,
                primary=True,
                label="F1 of answers",
                meaning="How many words the answers found share with those of the records, by SQuAD's rules.",
            ),
            Metric(
                "exact_match",
                sum(exact_match(*pair) for pair in observed) / count,
                Unit.PERCENT,
                Better.HIGHER,
                label="exact match",
                meaning="The share of the questions whose answer is found word for word, by SQuAD's rules.",
            ),
        )


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, longest: int) -> str:
    """Returns as much of a text's beginning as fits into so many tokens."""
    places = tokenizer(
        text, add_special_tokens=False, truncation=True, max_length=longest, return_offsets_mapping=True
    )["offset_mapping"]  # fmt: skip
    return text[: places[-1][1]] if len(places) == longest else text


def _target(value: AskedText, places: Sequence[tuple[int, int] | None]) -> tuple[int, ...]:
    """Returns what a window's tokens learn: the answer's ends, or the first token where it is not whole in it."""
    target = [IGNORED if place is None else 0 for place in places]
    target[0] = 0
    blanks = len(value.answer) - len(value.answer.lstrip())
    start, end = value.start + blanks, value.start + len(value.answer.rstrip())
    inside = [n for n, at in enumerate(places) if at is not None and at[0] < end and at[1] > start]
    whole = inside and places[inside[0]][0] <= start and places[inside[-1]][1] >= end  # type: ignore[index]
    first, last = (inside[0], inside[-1]) if whole else (0, 0)
    target[first] |= _START
    target[last] |= _END
    return tuple(target)
