"""What a task is: columns read, a model with its head, tokens, a loss for each record, metrics.

A task's file imports no PyTorch before it trains: plans are read and refused without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Example(NamedTuple):
    """One record as a model takes it.

    Attributes:
        tokens: Its token ids, at least 1 and at most `Task.max_length`.
        target: What is to be learnt: one number for the record, or one for each token.
    """

    tokens: tuple[int, ...]
    target: int | tuple[int, ...]


class Task(Kind):
    """What a model learns to do; the base of every task.

    Values are what `read` makes of a row; only the task itself looks into one.
    """

    max_length: int

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

    def ask(self, text: str) -> Any:  # noqa: ANN401, ARG002 - the task's own
        """Returns the value that asks a trained model about a text; its target means nothing.

        Raises:
            UsageError: It is not a text, or the task answers none.
        """
        raise UsageError(f"a model of the task {self.kind!r} does not answer texts", where="task")

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> Sequence[Any]:
        """Returns a model's answer to each record of `ask`; gradients are off."""
        raise NotImplementedError  # whatever `ask` returns values for is answered

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
        """Returns each value as the model takes it."""

    @abstractmethod
    def made_up(
        self, tokens: tuple[int, ...], generator: np.random.Generator
    ) -> int | tuple[int, ...]:
        """Returns a target for made-up tokens, for checks without a record."""

    @abstractmethod
    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Returns the loss of each record, float32 (records,): a function of that record alone.

        Args:
            model: The module of `load`, adapted.
            inputs: Its arguments.
            targets: int64 (records,), or (records, tokens) with IGNORED where padded.
        """

    @abstractmethod
    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> Sequence[Any]:
        """Returns what `metrics` needs to know of each record; gradients are off."""

    @abstractmethod
    def metrics(self, observed: Sequence[Any]) -> Metrics:
        """Returns how good a model is, from what was observed of all records; one of the metrics is primary."""
