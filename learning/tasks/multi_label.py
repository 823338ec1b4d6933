"""Multi-label classification: of a list of labels, all that apply to a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from hortus.learning.data.values import as_index, as_label
from hortus.learning.tasks.classification import LabelTask, Prediction, macro_f1, mean_loss
from hortus.learning.tasks.texts import LabelledText
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Chance, Metric, Metrics, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

Flags = tuple[int, ...]
"""1 for each label that applies, and 0 for each other one."""


class Predictions(NamedTuple):
    """A model's answer to a text.

    Attributes:
        labels: Those that apply more likely than not.
        probabilities: That the model gives each label, from 0 to 1, the likeliest first.
    """

    labels: tuple[str, ...]
    probabilities: tuple[Prediction, ...]


class MultiLabel(LabelTask):
    """`multi-label`: any number of labels for each text; a decision of its own for each label."""

    problem: ClassVar[str] = "multi_label_classification"
    aligned: ClassVar[bool] = False

    kind: Literal["multi-label"] = "multi-label"
    label: str = Field(
        "labels",
        description="Column that holds a list of labels; an empty list where none applies. In CSV it is "
        'written as JSON: `["a", "b"]`.',
    )

    def words(self, code: Callable[[str], str]) -> str:
        """See `Task`."""
        return f"say which of {len(self.labels)} labels apply to a text: {self.shown(code)}"

    def read(self, row: Mapping[str, Any], where: str) -> LabelledText:
        """See `Task`."""
        value = self.read_texts(row, where, None)
        where = f"{where}, column {self.label!r}"
        named = [as_label(one, where) for one in _as_list(row[self.label], where)]
        numbers = {as_index(one, self.numbers, where) for one in named}
        return value._replace(label=tuple(int(n in numbers) for n in range(len(self.labels))))

    def row(self, value: LabelledText) -> dict[str, Any]:
        """See `Task`."""
        named = [label for label, flag in zip(self.labels, value.label, strict=True) if flag]
        return self.row_of_texts(value) | {self.label: named}

    def check_values(self, values: Sequence[LabelledText]) -> None:
        """Refuses labels that no record has."""
        flags = zip(*(value.label for value in values), strict=True)
        self.check_seen({number for number, column in enumerate(flags) if any(column)})

    def canary(self, value: LabelledText, generator: np.random.Generator) -> LabelledText:  # noqa: ARG002 - one is wrong most
        """The opposite of every label."""
        return value._replace(label=tuple(1 - flag for flag in value.label))

    def target(self, label: Flags) -> tuple[float, ...]:
        """The flags as floats."""
        return tuple(map(float, label))

    def made_up(self, tokens: tuple[int, ...], generator: np.random.Generator) -> tuple[float, ...]:  # noqa: ARG002 - of any length
        """Random flags."""
        return self.target(tuple(generator.integers(0, 2, len(self.labels)).tolist()))

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean binary cross-entropy of a record's labels, in nats. See `Task`."""
        return _each(model(**inputs).logits, targets)

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[tuple[list[float], list[bool], float]]:
        """Each record's flags, those predicted, and its loss. See `Task`."""
        logits = model(**inputs).logits
        losses = _each(logits, targets).double()
        return list(zip(targets.tolist(), (logits > 0).tolist(), losses.tolist(), strict=True))

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[Predictions]:
        """All labels, with their probabilities. See `Task`."""
        answers = []
        for row in model(**inputs).logits.double().sigmoid().tolist():
            ranked = sorted(
                map(Prediction, self.labels, row), key=lambda one: one.probability, reverse=True
            )
            named = tuple(one.label for one in ranked if one.probability > 0.5)
            answers.append(Predictions(named, tuple(ranked)))
        return answers

    def metrics(self, observed: Sequence[tuple[Sequence[float], Sequence[bool], float]]) -> Metrics:
        """Micro F1, which is primary, macro F1, the share of records that are right as a whole, and the loss."""
        import numpy as np
        from sklearn.metrics import f1_score

        wanted, found = (np.array([one[n] for one in observed]).astype(bool) for n in (0, 1))
        everything = 2 * wanted.sum() / (wanted.sum() + wanted.size)
        return (
            Metric(
                "micro_f1",
                float(f1_score(wanted.ravel(), found.ravel(), zero_division=0.0)),
                Unit.PERCENT,
                Better.HIGHER,
                primary=True,
                label="micro F1",
                meaning="The F1 score over all pairs of a record and a label.",
                chance=Chance(float(everything), "giving every record every label"),
            ),
            macro_f1(wanted, found, self.labels),
            Metric(
                "exact_match",
                float((wanted == found).all(1).mean()),
                Unit.PERCENT,
                Better.HIGHER,
                label="exact match",
                meaning="The share of the records that are given their labels and no other.",
            ),
            mean_loss(np.array([one[2] for one in observed])),
        )


def _each(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def _as_list(value: Any, where: str) -> list[Any]:  # noqa: ANN401 - whatever a file holds
    """Returns a list of labels, empty where none applies."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, list):
        raise UsageError(
            "it is no list of labels",
            where=where,
            remedy='Write a list, as JSON: ["a", "b"]; and [] where no label applies.',
        )
    return value
