"""Single-label classification of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hortus.learning.data.values import as_index, check_words, numbered
from hortus.learning.tasks.texts import LabelledText, TextTask
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Breakdown, Chance, Metric, Metrics, Part, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

_FEW, _SHOWN = 5, 6


class Prediction(NamedTuple):
    """A model's answer to a text.

    Attributes:
        label: The likeliest label.
        probability: That the model gives it, from 0 to 1.
    """

    label: str
    probability: float


class LabelTask(TextTask):
    """A task about texts whose answers are some of a list of labels."""

    listed: ClassVar[tuple[str, ...]] = ("labels",)

    label: str = Field("label", description="Column that holds the label.")
    labels: tuple[str, ...] = Field(
        min_length=2,
        description="All labels, public and fixed before anybody looks at data: a list, or in a "
        "plan file the path of a text file with one label a line.",
    )

    @model_validator(mode="after")
    def _labels_are_distinct_words(self) -> Self:
        check_words(self.labels, "a label", "labels", ": it would stand for records without one")
        return self

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The labels, as files are compared with them, with their numbers."""
        return numbered(self.labels)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    @property
    def columns(self) -> tuple[str, ...]:
        """Texts and label."""
        return *self.asked, self.label

    def shown(self, code: Callable[[str], str]) -> str:
        """Returns the labels, the first few of many, for whoever approves a plan."""
        more = f" and {len(self.labels) - _SHOWN} more" if len(self.labels) > _SHOWN else ""
        return ", ".join(map(code, self.labels[:_SHOWN])) + more

    def check_seen(self, seen: set[int]) -> None:
        """Refuses labels that no record has: nobody could learn them."""
        unseen = [label for index, label in enumerate(self.labels) if index not in seen]
        if unseen:
            raise UsageError(
                f"no site has a record of {', '.join(map(repr, unseen[:_FEW]))}"
                + (f" and {len(unseen) - _FEW} more labels" if len(unseen) > _FEW else ""),
                where="task.labels",
                remedy="Nobody could learn them: remove them from the list, or check the data.",
            )


class TextClassification(LabelTask):
    """`text-classification`: one label for each text, or pair of texts; a head on an encoder or a decoder."""

    problem: ClassVar[str] = "single_label_classification"

    kind: Literal["text-classification"] = "text-classification"

    def words(self, code: Callable[[str], str]) -> str:
        """See `Task`."""
        what = "a text" if self.second is None else "a text, read with another one,"
        return f"put {what} into one of {len(self.labels)} classes: {self.shown(code)}"

    def read(self, row: Mapping[str, Any], where: str) -> LabelledText:
        """See `Task`."""
        value = self.read_texts(row, where, None)
        label = as_index(row[self.label], self.numbers, f"{where}, column {self.label!r}")
        return value._replace(label=label)

    def row(self, value: LabelledText) -> dict[str, Any]:
        """See `Task`."""
        return self.row_of_texts(value) | {self.label: self.labels[value.label]}

    def group(self, value: LabelledText) -> int:
        """The label."""
        return int(value.label)

    def check_values(self, values: Sequence[LabelledText]) -> None:
        """Refuses labels that no record has."""
        self.check_seen({value.label for value in values})

    def canary(self, value: LabelledText, generator: np.random.Generator) -> LabelledText:
        """Another label, at random."""
        wrong = (value.label + int(generator.integers(1, len(self.labels)))) % len(self.labels)
        return value._replace(label=wrong)

    def target(self, label: int) -> int:
        """The label's number."""
        return label

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
        every = np.arange(len(self.labels))
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
            macro_f1(labels[:, None] == every, predicted[:, None] == every, self.labels),
            mean_loss(losses),
        )


def macro_f1(wanted: np.ndarray, found: np.ndarray, names: Sequence[str]) -> Metric:
    """Returns the mean of the labels' F1, with each of them; labels neither present nor predicted are left out.

    Args:
        wanted: bool (records, labels), which label each record has.
        found: bool (records, labels), which it is given.
        names: The labels.
    """
    from sklearn.metrics import f1_score

    there = (wanted | found).any(0).nonzero()[0]
    scores = f1_score(wanted.astype(int), found.astype(int), average=None, zero_division=0.0)[there]
    parts = [
        Part(names[label], wanted[:, label].sum(), score)
        for label, score in zip(there.tolist(), scores, strict=True)
    ]
    return Metric(
        "macro_f1",
        float(scores.mean()) if len(there) else 0.0,
        Unit.PERCENT,
        Better.HIGHER,
        label="macro F1",
        meaning="The mean of the labels' F1 scores: a rare label counts as much as a frequent one.",
        breakdown=Breakdown("F1", "label", "records", tuple(parts)),
    )


def mean_loss(losses: np.ndarray) -> Metric:
    """Returns the mean of cross-entropies in nats, float64 (records,)."""
    return Metric(
        "loss",
        float(losses.mean()),
        Unit.NATS,
        Better.LOWER,
        meaning="The mean cross-entropy: how little probability the model gives to what is right.",
    )
