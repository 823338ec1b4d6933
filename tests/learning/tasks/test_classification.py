import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.metric import check_metrics, primary, values

TASK = TextClassification(labels=("a", "b", "c", "d"))


def measured(labels: list[int], predicted: list[int]) -> tuple[float, float]:
    metrics = TASK.metrics([(y, p, 0.5) for y, p in zip(labels, predicted, strict=True)])
    check_metrics(metrics)
    assert values(metrics)["loss"] == 0.5
    return values(metrics)["accuracy"], values(metrics)["macro_f1"]


def test_a_worked_example() -> None:
    # F1 of 0: 2·2/(3+2); of 1: 2·1/(1+2); of 2: 0, present and never found; 3 is not there at all.
    accuracy, macro_f1 = measured([0, 0, 0, 1, 2], [0, 0, 1, 1, 3])
    assert accuracy == pytest.approx(3 / 5)
    assert macro_f1 == pytest.approx((4 / 5 + 2 / 3 + 0 + 0) / 4)


def test_every_label_that_is_present_or_predicted_has_its_own_f1() -> None:
    pairs = zip([0, 0, 0, 1], [0, 0, 1, 3], strict=True)
    _, macro, _ = TASK.metrics([(label, named, 0.5) for label, named in pairs])
    assert macro.breakdown is not None
    parts = [(part.label, part.count, part.value) for part in macro.breakdown.parts]
    assert parts == [("a", 3, pytest.approx(4 / 5)), ("b", 1, 0.0), ("d", 0, 0.0)]
    assert [part.label for part in macro.worst_first()] == ["b", "d", "a"]


def test_chance_is_the_share_of_the_most_frequent_label() -> None:
    accuracy = primary(TASK.metrics([(label, 0, 1.0) for label in (0, 2, 2, 1)]))
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
