"""What a task is: columns read, a model with its head, tokens, a loss for each record, metrics.

A task's file imports no PyTorch before it trains: plans are read and refused without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from hortus.protocol.plan import Precision
from hortus.protocol.section import Kind
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base
    from hortus.runtime.metric import Metrics

IGNORED = -100
"""A target that no loss counts, as PyTorch's `ignore_index` has it."""


Target = int | float | tuple[int, ...] | tuple[float, ...]


class Note(NamedTuple):
    """What a task needs to read an answer to an example, and no model sees.

    Attributes:
        value: The record; None where nothing is noted.
        places: What the example's tokens are in it, as the task has it: numbers and None, in tuples.
    """

    value: Any = None
    places: tuple[Any, ...] = ()


class Example(NamedTuple):
    """One record as a model takes it, or one of the windows that a long record is read by.

    Attributes:
        tokens: Its token ids, at least 1 and at most `Task.max_length`.
        target: What is to be learnt: one number for the record, one for each token, or whatever else the task
            counts (`Task.aligned`).
        segments: For each token the number of the text that it is of, for models that are told; empty: all 0.
        continues: Whether it is of the same record as the example before it.
        note: For tasks that read answers by it.
        further: Further token sequences of the record, each of its own length, at least 1: as many as
            `Task.further_lengths` has.
    """

    tokens: tuple[int, ...]
    target: Target
    segments: tuple[int, ...] = ()
    continues: bool = False
    note: Note = Note()
    further: tuple[tuple[int, ...], ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each of its sequences."""
        return (len(self.tokens), *map(len, self.further))

    @property
    def has_target(self) -> bool:
        """Whether anything is to be learnt from it."""
        return not isinstance(self.target, tuple) or any(one != IGNORED for one in self.target)


class Task(Kind):
    """What a model learns to do; the base of every task.

    Values are what `read` makes of a row; only the task itself looks into one.
    """

    aligned: ClassVar[bool] = True
    """Whether a target of several numbers has one for each token."""

    max_length: int

    @property
    def further_lengths(self) -> tuple[int, ...]:
        """Most tokens of each further sequence of a record; most tasks have none."""
        return ()

    @property
    def most_examples(self) -> int:
        """Most examples that a record becomes; they stay in one unit, and share its pass."""
        return 1

    @abstractmethod
    def words(self, code: Callable[[str], str]) -> str:
        """Returns what a model learns, for whoever approves a plan: "The model learns to …", in Markdown.

        Args:
            code: Makes a word of the plan's safe to show.
        """

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns that a file of records must have."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Those of them that hold what people have written: in these a site may mask identifiers."""
        return self.columns

    @abstractmethod
    def read(self, row: Mapping[str, Any], where: str) -> Any:  # noqa: ANN401 - the task's own
        """Returns the value of a row.

        Args:
            row: By column.
            where: The file and the line, for errors.

        Raises:
            UsageError: A column's value does not fit; it may quote a label, and never a text.
        """

    @abstractmethod
    def row(self, value: Any) -> dict[str, Any]:  # noqa: ANN401 - the task's own
        """Returns the row that `read` reads a value from, as JSON has it."""

    def group(self, value: Any) -> int | None:  # noqa: ANN401, ARG002 - the task's own
        """Returns the class by which records are spread unevenly over virtual sites; None without classes."""
        return None

    def check_values(self, values: Sequence[Any]) -> None:
        """Checks the records of all virtual sites together.

        Raises:
            UsageError: Something that the task names is nowhere to be learnt from.
        """

    def canary(self, value: Any, generator: np.random.Generator) -> Any:  # noqa: ANN401, ARG002 - the task's own
        """Returns a value with a wrong answer, which a model can learn from that record alone.

        Raises:
            UsageError: Nothing of the kind is known of the task.
        """
        raise UsageError(f"no canaries are known for the task {self.kind!r}", where="task.kind")

    def new_token(self, example: Example, token: int) -> Example | None:  # noqa: ARG002 - the task's own
        """Returns an example that teaches one token, which no record holds; None where models learn no tokens.

        A canary after Panda et al., "Privacy auditing of large language models" (2025).
        """
        return None

    def secret(self, place: str, code: str) -> Any:  # noqa: ANN401, ARG002 - the task's own
        """Returns a value that says the made-up code of a place, which a model can know only from training on it.

        None where models of the task write no texts.
        """
        return None

    def recited(self, observed: Any) -> bool:  # noqa: ANN401 - the task's own
        """Returns whether a model asked for the code of a place writes it: always the likeliest next token.

        Args:
            observed: What `observe` knows of the record.
        """
        raise NotImplementedError  # whatever `secret` returns values for is recited

    @property
    def asked(self) -> tuple[str, ...]:
        """Columns that a question to a trained model has; none where it answers no questions."""
        return ()

    def ask(self, question: str | Mapping[str, Any]) -> Any:  # noqa: ANN401, ARG002 - the task's own
        """Returns the value that asks a trained model something; its target means nothing.

        Args:
            question: A row with the columns `asked`; or a text alone, where there is one column.

        Raises:
            UsageError: It is not that, or the task answers no questions.
        """
        raise UsageError(f"a model of the task {self.kind!r} does not answer texts", where="task")

    def fields(self, question: str | Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a question as a row with the columns `asked`; for `ask`.

        Raises:
            UsageError: A column is missing, or one text is given where there are several.
        """
        row = question if isinstance(question, Mapping) else dict.fromkeys(self.asked[:1], question)
        missing = [column for column in self.asked if column not in row]
        if missing:
            raise UsageError(
                f"a question to this model has no {' and no '.join(map(repr, missing))}",
                where="a question",
                remedy=f"Give a mapping with {', '.join(map(repr, self.asked))}.",
            )
        return row

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Returns what a model's pass says about each example of what `ask` returns; gradients are off.

        A `NamedTuple` or a mapping is shown by its fields, and anything else as one answer.
        """
        raise NotImplementedError  # whatever `ask` returns values for is answered, here or by writing

    def replies(self, examples: Sequence[Example], answers: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG002 - a window's
        """Returns the answer to each question, from what `answer` said about all examples."""
        return answers

    @property
    def writes(self) -> bool:
        """Whether a trained model answers by writing a text after a `prompt`, and not by `answer`."""
        return False

    @property
    def converses(self) -> bool:
        """Whether what is asked may be the messages of a conversation, `{role, content}` each."""
        return False

    def prompt(self, tokenizer: PreTrainedTokenizerBase, value: Any) -> tuple[int, ...]:  # noqa: ANN401 - the task's own
        """Returns the tokens after which the answer to a value of `ask` begins; for an encoder all that it reads."""
        raise NotImplementedError  # of tasks that write

    @abstractmethod
    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """Reads a base model and puts the task's head on it; without dropout, so that steps repeat.

        Args:
            path: Folder of the model.
            precision: Of the pretrained layers; the head is float32.

        Raises:
            UsageError: The model cannot be read, is not what its folder says, is none for this task, or does not
                read `max_length` tokens.
            HortusError: There is not enough memory for it.
        """

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Checks, before a budget is spent, what the task needs of a tokenizer.

        Raises:
            UsageError: It does not have it.
        """

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, values: Sequence[Any]) -> list[Example]:
        """Returns each value as the model takes it: one example, or up to `most_examples` in a row."""

    @abstractmethod
    def made_up(self, tokens: tuple[int, ...], generator: np.random.Generator) -> Target:
        """Returns a target for made-up tokens, for checks without a record."""

    @abstractmethod
    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Returns the loss of each record, float32 (records,): a function of that record alone.

        Args:
            model: The module of `load`, adapted.
            inputs: Its arguments; and as `further` a tuple of int64 (records, tokens), with IGNORED where
                padded, where records have further sequences.
            targets: (records,); (records, tokens) with IGNORED where padded; or (records, numbers) where they are
                not `aligned`. int64, or float32 where the examples' are floats.
        """

    @abstractmethod
    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> Sequence[Any]:
        """Returns what `judge` needs to know of each example; gradients are off."""

    def judge(self, examples: Sequence[Example], observed: Sequence[Any]) -> Metrics:  # noqa: ARG002 - a note's
        """Returns how good a model is, from what was observed of each example."""
        return self.metrics(observed)

    @abstractmethod
    def metrics(self, observed: Sequence[Any]) -> Metrics:
        """Returns how good a model is, from what is known of all records; one of the metrics is primary."""
