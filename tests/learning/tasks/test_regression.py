from decimal import Decimal

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from hortus.learning.tasks.regression import Regression
from hortus.learning.tasks.texts import LabelledText
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import check_metrics, values

TASK = Regression(lowest=10, highest=20)


class Says(torch.nn.Module):
    """A model whose output is what it is given."""

    def forward(self, out: list[float]) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=torch.tensor(out)[:, None])


def test_a_worked_example() -> None:
    metrics = TASK.metrics([(10, 12), (12, 12), (20, 16)])
    check_metrics(metrics)
    found = values(metrics)
    assert found["rmse"] == pytest.approx((20 / 3) ** 0.5)
    assert found["mae"] == pytest.approx(2)
    assert found["pearson"] == pytest.approx(0.9819805, abs=1e-6)
    assert found["spearman"] == pytest.approx(0.8660254, abs=1e-6)  # ranks 1, 2, 3 and 1.5, 1.5, 3
    assert metrics[0].chance is not None
    assert metrics[0].chance.value == pytest.approx(np.std([10, 12, 20]))


@pytest.mark.parametrize("pairs", [[(12, 15), (14, 15)], [(12, 15), (12, 16)], [(12, 12)]])
def test_there_is_no_correlation_with_a_constant(pairs: list[tuple[float, float]]) -> None:
    found = values(TASK.metrics(pairs))
    assert found["pearson"] == found["spearman"] == 0


def test_values_are_scaled_for_the_loss_and_back_for_the_answer() -> None:
    targets = torch.tensor([TASK.target(10), TASK.target(15), TASK.target(20)])
    assert targets.tolist() == [-1, 0, 1]
    inputs = {"out": [-0.5, 0.5, 7.0]}
    assert TASK.losses(Says(), inputs, targets).tolist() == pytest.approx([0.25, 0.25, 36])
    assert [one.value for one in TASK.answer(Says(), inputs)] == [12.5, 17.5, 20]
    assert TASK.observe(Says(), inputs, targets) == [(10, 12.5), (15, 17.5), (20, 20)]


@pytest.mark.parametrize("cell", [12, 12.0, "12", " 12.0 ", Decimal("12.0")])
def test_a_number_is_one_however_a_file_has_it(cell: object) -> None:
    assert TASK.read({"text": "x", "label": cell}, "here").label == 12


@pytest.mark.parametrize("cell", [9.99, 21, "nan", float("inf"), "", None, True, "12,5", [12]])
def test_what_is_no_number_of_the_range_is_refused_and_not_quoted(cell: object) -> None:
    with pytest.raises(UsageError, match="here, column 'label'") as caught:
        TASK.read({"text": "x", "label": cell}, "here")
    assert str(cell or "…") not in str(caught.value)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="not below"):
        Regression(lowest=2, highest=2)


@pytest.mark.parametrize(("value", "wrong"), [(10, 20), (14, 20), (16, 10), (20, 10)])
def test_a_canary_is_at_the_other_end(value: float, wrong: float) -> None:
    assert TASK.canary(LabelledText("x", value), np.random.default_rng(0)).label == wrong
