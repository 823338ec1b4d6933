"""Single-label classification of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hortus.learning.data.values import as_index, as_text, check_words, numbered
from hortus.learning.tasks.base import Example, Task
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Breakdown, Chance, Metric, Metrics, Part, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base

_FEW, _SHOWN = 5, 6


class LabelledText(NamedTuple):
    """A record: a text, and the number of its label."""

    text: str
    label: int


class Prediction(NamedTuple):
    """A model's answer to a text.

    Attributes:
        label: The likeliest label.
        probability: That the model gives it, from 0 to 1.
    """

    label: str
    probability: float


class TextClassification(Task):
    """`text-classification`: one label for each text; a head on an encoder or a decoder."""

    listed: ClassVar[tuple[str, ...]] = ("labels",)

    kind: Literal["text-classification"] = "text-classification"
    text: str = Field("text", description="Column that holds the text.")
    label: str = Field("label", description="Column that holds the label.")
    labels: tuple[str, ...] = Field(
        min_length=2,
        description="All labels, public and fixed before anybody looks at data: a list, or in a "
        "plan file the path of a text file with one label a line.",
    )
    max_length: int = Field(64, ge=4, le=4096, description="Tokens a text is cut to.")
    head: Literal["sentence", "sequence"] = Field(
        "sentence",
        description="What gives a text its classes. `sentence`: a linear layer on the mean of the states of its "
        "tokens, scaled to one length; for small encoders. `sequence`: what transformers has for the architecture "
        "(`…ForSequenceClassification`), which `pipeline` opens; for decoders, and for encoders that have a head.",
    )

    @model_validator(mode="after")
    def _labels_are_distinct_words(self) -> Self:
        check_words(self.labels, "a label", "labels", ": it would stand for records without one")
        return self

    def words(self, code: Callable[[str], str]) -> str:
        """See `Task`."""
        more = f" and {len(self.labels) - _SHOWN} more" if len(self.labels) > _SHOWN else ""
        shown = ", ".join(map(code, self.labels[:_SHOWN]))
        return f"put a text into one of {len(self.labels)} classes: {shown}{more}"

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The labels, as files are compared with them, with their numbers."""
        return numbered(self.labels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Text and label."""
        return self.text, self.label

    @property
    def texts(self) -> tuple[str, ...]:
        """The text: a label is a word of the plan's."""
        return (self.text,)

    def read(self, row: Mapping[str, Any], where: str) -> LabelledText:
        """See `Task`."""
        return LabelledText(
            as_text(row[self.text], f"{where}, column {self.text!r}"),
            as_index(row[self.label], self.numbers, f"{where}, column {self.label!r}"),
        )

    def row(self, value: LabelledText) -> dict[str, Any]:
        """See `Task`."""
        return {self.text: value.text, self.label: self.labels[value.label]}

    def group(self, value: LabelledText) -> int:
        """The label."""
        return value.label

    def check_values(self, values: Sequence[LabelledText]) -> None:
        """Refuses labels that no record has: nobody could learn them."""
        seen = {value.label for value in values}
        unseen = [label for index, label in enumerate(self.labels) if index not in seen]
        if unseen:
            raise UsageError(
                f"no site has a record of {', '.join(map(repr, unseen[:_FEW]))}"
                + (f" and {len(unseen) - _FEW} more labels" if len(unseen) > _FEW else ""),
                where="task.labels",
                remedy="Nobody could learn them: remove them from the list, or check the data.",
            )

    def canary(self, value: LabelledText, generator: np.random.Generator) -> LabelledText:
        """Another label, at random."""
        wrong = (value.label + int(generator.integers(1, len(self.labels)))) % len(self.labels)
        return value._replace(label=wrong)

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        if self.head == "sentence":
            from hortus.learning.models.encoder import classifier

            return classifier(path, precision, self.max_length, len(self.labels))
        from hortus.learning.models.heads import SEQUENCE, model_with_head

        return model_with_head(
            path,
            precision,
            self.max_length,
            SEQUENCE,
            labels=self.labels,
            problem_type="single_label_classification",
        )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[LabelledText]
    ) -> list[Example]:
        """See `Task`."""
        from hortus.learning.models.tokens import token_ids

        tokens = token_ids(tokenizer, [value.text for value in values], self.max_length)
        return [Example(ids, value.label) for ids, value in zip(tokens, values, strict=True)]

    def made_up(self, tokens: tuple[int, ...], generator: np.random.Generator) -> int:  # noqa: ARG002 - of any length
        """A random label."""
        return int(generator.integers(0, len(self.labels)))

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy, in nats. See `Task`."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(model(**inputs).logits, targets, reduction="none")

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[tuple[int, int, float]]:
        """The label, the label predicted, and the cross-entropy in nats. See `Task`."""
        from torch.nn.functional import cross_entropy

        logits = model(**inputs).logits
        losses = cross_entropy(logits, targets, reduction="none")
        predicted = logits.argmax(1)
        return list(
            zip(targets.tolist(), predicted.tolist(), losses.double().tolist(), strict=True)
        )

    @property
    def asked(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    def ask(self, question: str | Mapping[str, Any]) -> LabelledText:
        """See `Task`."""
        return LabelledText(as_text(self.fields(question)[self.text], "a text to predict"), 0)

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[Prediction]:
        """The likeliest label, with its probability. See `Task`."""
        shares, labels = model(**inputs).logits.double().softmax(1).max(1)
        return [
            Prediction(self.labels[label], share)
            for label, share in zip(labels.tolist(), shares.tolist(), strict=True)
        ]

    def metrics(self, observed: Sequence[tuple[int, int, float]]) -> Metrics:
        """Accuracy, which is primary, macro F1 and mean cross-entropy."""
        import numpy as np

        labels, predicted, losses = (np.array(column) for column in zip(*observed, strict=True))
        commonest = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
        scores = f1_by_label(labels, predicted, self.labels)
        return (
            Metric(
                "accuracy",
                float((predicted == labels).mean()),
                Unit.PERCENT,
                Better.HIGHER,
                primary=True,
                meaning="The share of the records whose label the model names.",
                chance=Chance(commonest, "always naming the most frequent label"),
            ),
            Metric(
                "macro_f1",
                float(np.mean([part.value for part in scores.parts])),
                Unit.PERCENT,
                Better.HIGHER,
                label="macro F1",
                meaning="The mean of the labels' F1 scores: a rare label counts as much as a frequent one.",
                breakdown=scores,
            ),
            Metric(
                "loss",
                float(losses.mean()),
                Unit.NATS,
                Better.LOWER,
                meaning="The mean cross-entropy: how little probability the model gives to the right label.",
            ),
        )


def f1_by_label(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Breakdown:
    """Returns each label's F1; labels that are neither present nor predicted are left out.

    Args:
        labels: int64 (n,).
        predicted: int64 (n,).
        names: Each label's.
    """
    import numpy as np

    parts = []
    for label in np.union1d(labels, predicted):
        of, named = labels == label, predicted == label
        score = 2 * np.sum(of & named) / (np.sum(of) + np.sum(named))
        parts.append(Part(names[label], np.sum(of), score))
    return Breakdown("F1", "label", "records", tuple(parts))
