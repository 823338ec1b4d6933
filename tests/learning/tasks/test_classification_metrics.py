import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hortus.learning.tasks.classification import Batch, Encoded
from hortus.learning.tasks.classification_metrics import classified, evaluate
from hortus.runtime.metric import check_metrics, primary, values


class Told(nn.Module):
    """Predicts what it is told to."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


class Task:
    """Batches of ready-made logits, in another order than the dataset's."""

    workers = 2

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def batches(self, data: Encoded, indices: np.ndarray, size: int) -> list[Batch]:
        order = indices[::-1]
        parts = [order[start : start + size].copy() for start in range(0, len(order), size)]
        return [
            Batch(
                {"logits": self._logits[torch.from_numpy(p)]},
                data.labels[torch.from_numpy(p)],
                p,
                torch.arange(len(p)),
                torch.ones(len(p)),
            )
            for p in parts
        ]


def measured(labels: list[int], predicted: list[int]) -> tuple[float, float]:
    data = Encoded(tuple((0,) for _ in labels), torch.tensor(labels), np.arange(len(labels)))
    logits = 9.0 * nn.functional.one_hot(torch.tensor(predicted), 4)
    metrics = evaluate(Told(), Task(logits), data, 2)  # type: ignore[arg-type]
    check_metrics(metrics)
    reached = values(metrics)
    return reached["accuracy"], reached["macro_f1"]


def test_a_worked_example() -> None:
    # F1 of 0: 2·2/(3+2); of 1: 2·1/(1+2); of 2: 0, present and never found; 3 is not there at all.
    accuracy, macro_f1 = measured([0, 0, 0, 1, 2], [0, 0, 1, 1, 3])
    assert accuracy == pytest.approx(3 / 5)
    assert macro_f1 == pytest.approx((4 / 5 + 2 / 3 + 0 + 0) / 4)


def test_chance_is_the_share_of_the_most_frequent_label() -> None:
    accuracy = primary(classified(np.array([0, 2, 2, 1]), np.array([0, 0, 0, 0]), 1.0))
    assert accuracy is not None
    assert (accuracy.name, accuracy.value) == ("accuracy", 0.25)
    assert accuracy.chance is not None
    assert accuracy.chance.value == 0.5


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@settings(deadline=None)
@given(pairs)
def test_metrics_are_fractions_and_perfect_only_if_all_is_right(
    pairs: list[tuple[int, int]],
) -> None:
    labels, predicted = [p[0] for p in pairs], [p[1] for p in pairs]
    accuracy, macro_f1 = measured(labels, predicted)
    assert 0 <= accuracy <= 1
    assert 0 <= macro_f1 <= 1
    assert (accuracy == 1) == (labels == predicted)
    assert (macro_f1 == 1) == (labels == predicted)
    other = measured([3 - y for y in labels], [3 - y for y in predicted])
    assert other == pytest.approx((accuracy, macro_f1))
