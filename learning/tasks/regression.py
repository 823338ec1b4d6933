"""Regression: a number for each text, within a range that is public."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hortus.learning.data.values import as_number
from hortus.learning.tasks.texts import LabelledText, TextTask
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Chance, Metric, Metrics, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


class Estimate(NamedTuple):
    """A model's answer to a text: a number within the plan's range."""

    value: float


class Regression(TextTask):
    """`regression`: a number for each text, or pair of texts, such as a score or a severity."""

    problem: ClassVar[str] = "regression"

    kind: Literal["regression"] = "regression"
    label: str = Field("label", description="Column that holds the number.")
    lowest: float = Field(
        description="Least value that a record may have: public, and fixed before anybody looks at data. "
        "The model learns values scaled from -1 to 1; a record outside the range is refused."
    )
    highest: float = Field(description="Largest value that a record may have, likewise.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.lowest < self.highest:
            raise ValueError("lowest is not below highest")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """One."""
        return (self.label,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Texts and number."""
        return *self.asked, self.label

    def words(self, code: Callable[[str], str]) -> str:
        """See `Task`."""
        return f"estimate {code(self.label)} of a text, from {self.lowest:g} to {self.highest:g}"

    def read(self, row: Mapping[str, Any], where: str) -> LabelledText:
        """See `Task`."""
        value = self.read_texts(row, where, None)
        where = f"{where}, column {self.label!r}"
        number = as_number(row[self.label], where)
        if not self.lowest <= number <= self.highest:
            raise UsageError(
                f"the number is not from {self.lowest:g} to {self.highest:g}",
                where=where,
                remedy="Correct it, or agree on another range: task.lowest and task.highest.",
            )
        return value._replace(label=number)

    def row(self, value: LabelledText) -> dict[str, Any]:
        """See `Task`."""
        return self.row_of_texts(value) | {self.label: value.label}

    def canary(self, value: LabelledText, generator: np.random.Generator) -> LabelledText:  # noqa: ARG002 - one end is farther
        """The end of the range that is farther away."""
        low = value.label - self.lowest > self.highest - value.label
        return value._replace(label=self.lowest if low else self.highest)

    @property
    def _scale(self) -> tuple[float, float]:
        """The range's middle, and its half."""
        return (self.lowest + self.highest) / 2, (self.highest - self.lowest) / 2

    def target(self, label: float) -> float:
        """The number, scaled from -1 to 1."""
        middle, half = self._scale
        return (label - middle) / half

    def made_up(self, tokens: tuple[int, ...], generator: np.random.Generator) -> float:  # noqa: ARG002 - of any length
        """A random number of the scaled range."""
        return float(generator.uniform(-1, 1))

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Squared error of the scaled value. See `Task`."""
        errors: torch.Tensor = model(**inputs).logits[:, 0] - targets
        return errors.square()

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[tuple[float, float]]:
        """Each record's number, and the estimate. See `Task`."""
        middle, half = self._scale
        wanted = (targets.double() * half + middle).tolist()
        return list(zip(wanted, (one.value for one in self.answer(model, inputs)), strict=True))

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[Estimate]:
        """The estimates. See `Task`."""
        middle, half = self._scale
        scaled = model(**inputs).logits[:, 0].double().clamp(-1, 1)
        return [Estimate(one) for one in (scaled * half + middle).tolist()]

    def metrics(self, observed: Sequence[tuple[float, float]]) -> Metrics:
        """Root mean squared error, which is primary, mean absolute error, and correlations."""
        import numpy as np
        from scipy.stats import pearsonr, spearmanr

        wanted, found = np.array(observed, np.float64).T
        errors = found - wanted
        varied = min(np.ptp(wanted), np.ptp(found)) > 0  # of a constant there is no correlation
        return (
            Metric(
                "rmse",
                float(np.sqrt(np.mean(errors**2))),
                Unit.NUMBER,
                Better.LOWER,
                primary=True,
                label="RMSE",
                meaning="The root of the mean squared error: the typical error, where large ones count more.",
                chance=Chance(float(wanted.std()), "always estimating the mean"),
            ),
            Metric(
                "mae",
                float(np.abs(errors).mean()),
                Unit.NUMBER,
                Better.LOWER,
                label="MAE",
                meaning="The mean absolute error.",
            ),
            Metric(
                "pearson",
                float(pearsonr(wanted, found).statistic) if varied else 0.0,
                Unit.NUMBER,
                Better.HIGHER,
                label="Pearson correlation",
                meaning="1 where estimates grow in proportion to the values; 0 where they do not vary.",
            ),
            Metric(
                "spearman",
                float(spearmanr(wanted, found).statistic) if varied else 0.0,
                Unit.NUMBER,
                Better.HIGHER,
                label="Spearman correlation",
                meaning="1 where estimates have the order of the values; 0 where they do not vary.",
            ),
        )
