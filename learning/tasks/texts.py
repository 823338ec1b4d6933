"""What the tasks have in common that judge a text, or two texts together, by a head of some outputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from hortus.learning.data.values import as_text
from hortus.learning.tasks.base import Example, Target, Task
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base


class LabelledText(NamedTuple):
    """A record: a text, what is to be told of it, and a second text that belongs to it where the task reads one."""

    text: str
    label: Any
    second: str = ""


class TextTask(Task):
    """A task about a text, or about two texts together, such as a question and what it is asked about."""

    problem: ClassVar[str]
    """What transformers calls it: `problem_type` in a model's configuration."""

    text: str = Field("text", description="Column that holds the text.")
    second: str | None = Field(
        None,
        description="Column that holds a second text, which is read after the first, such as what a question is about.",
    )
    max_length: int = Field(
        64,
        ge=4,
        le=4096,
        description="Tokens a text is cut to at its end; of two texts, the longer one first.",
    )
    head: Literal["sentence", "sequence"] = Field(
        "sentence",
        description="What gives a text its classes. `sentence`: a linear layer on the mean of the states of its "
        "tokens, scaled to one length; for small encoders. `sequence`: what transformers has for the architecture "
        "(`…ForSequenceClassification`), which `pipeline` opens; for decoders, and for encoders that have a head.",
    )

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the head's outputs."""

    @abstractmethod
    def target(self, label: Any) -> Target:  # noqa: ANN401 - the task's own
        """Returns a record's label as the loss takes it."""

    @property
    def asked(self) -> tuple[str, ...]:
        """The texts' columns."""
        return (self.text,) if self.second is None else (self.text, self.second)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts: a label is a word of the plan's, or a number."""
        return self.asked

    def read_texts(self, row: Mapping[str, Any], where: str, label: Any) -> LabelledText:  # noqa: ANN401 - the task's own
        """Returns the value of a row's texts.

        Raises:
            UsageError: One is empty, or no text.
        """
        texts = [as_text(row[column], f"{where}, column {column!r}") for column in self.asked]
        return LabelledText(texts[0], label, *texts[1:])

    def row_of_texts(self, value: LabelledText) -> dict[str, Any]:
        """Returns the columns of a value's texts."""
        return dict(zip(self.asked, (value.text, value.second), strict=False))

    def ask(self, question: str | Mapping[str, Any]) -> LabelledText:
        """See `Task`."""
        return self.read_texts(self.fields(question), "a text to predict", None)

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        if self.head == "sentence":
            from hortus.learning.models.encoder import classifier

            return classifier(path, precision, self.max_length, len(self.outputs))
        from hortus.learning.models.heads import SEQUENCE, model_with_head

        return model_with_head(
            path,
            precision,
            self.max_length,
            SEQUENCE,
            labels=self.outputs,
            problem_type=self.problem,
        )

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses a tokenizer that does not cut two texts to length, where two are read."""
        if self.second is None:
            return
        long = LabelledText("a " * self.max_length, None, "a " * self.max_length)
        try:
            cut = len(self._tokens(tokenizer, [long])[0][0]) <= self.max_length
        except Exception as error:  # whatever a tokenizer says of two texts
            raise UsageError(
                f"the tokenizer fails on two texts ({type(error).__name__})",
                where=str(tokenizer.name_or_path),
                remedy="Use another model, or leave task.second out.",
            ) from error
        if not cut:
            raise UsageError(
                f"two texts together have more than {self.max_length} tokens",
                where="task.max_length",
                remedy="Raise it: the tokens that tell the texts apart need room too.",
            )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[LabelledText]
    ) -> list[Example]:
        """See `Task`."""
        found = self._tokens(tokenizer, values) if values else []
        return [
            Example(ids, 0 if value.label is None else self.target(value.label), segments=segments)
            for (ids, segments), value in zip(found, values, strict=True)
        ]

    def _tokens(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[LabelledText]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        from hortus.learning.models.tokens import pair_ids, token_ids

        texts = [value.text for value in values]
        if self.second is None:
            return [(ids, ()) for ids in token_ids(tokenizer, texts, self.max_length)]
        return pair_ids(tokenizer, texts, [value.second for value in values], self.max_length)
