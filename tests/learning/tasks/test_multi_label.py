import numpy as np
import pytest

from hortus.learning.tasks.multi_label import MultiLabel
from hortus.learning.tasks.texts import LabelledText
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import check_metrics, values

TASK = MultiLabel(labels=("a", "b", "c"))


def test_a_worked_example() -> None:
    metrics = TASK.metrics(
        [((1, 1, 0), (1, 0, 0), 0.5), ((0, 1, 0), (0, 1, 0), 0.1), ((0, 0, 0), (1, 0, 0), 0.9)]
    )
    check_metrics(metrics)
    found = values(metrics)
    # Of all pairs 2 are found rightly, 3 are there, 3 are claimed; a: 2·1/(1+2), b: 2·1/(2+1), c: nowhere.
    assert found["micro_f1"] == pytest.approx(2 * 2 / 6)
    assert found["macro_f1"] == pytest.approx(2 / 3)
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["loss"] == pytest.approx(0.5)
    chance, breakdown = metrics[0].chance, metrics[1].breakdown
    assert chance is not None
    assert chance.value == pytest.approx(2 * 3 / (3 + 9))  # all nine claimed
    assert breakdown is not None
    assert [(part.label, part.count) for part in breakdown.parts] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("there", [0, 1])
def test_f1_is_known_where_nothing_or_one_label_is_there(there: int) -> None:
    found = values(TASK.metrics([((there, 0, 0), (there, 0, 0), 0.0)] * 2))
    assert found["micro_f1"] == found["macro_f1"] == there
    assert found["exact_match"] == 1


@pytest.mark.parametrize(
    ("cell", "flags"),
    [
        (["b"], (0, 1, 0)),
        (["c", "a", "a"], (1, 0, 1)),
        ([], (0, 0, 0)),
        ("[]", (0, 0, 0)),
        ('["a", "b"]', (1, 1, 0)),
    ],
)
def test_labels_are_read_from_a_list_in_any_order(cell: object, flags: tuple[int, ...]) -> None:
    assert TASK.read({"text": "x", "labels": cell}, "here").label == flags


@pytest.mark.parametrize("cell", ["", "a", None, 3, ["d"], [["a"]], {"a": 1}, [None]])
def test_what_is_no_list_of_the_plans_labels_is_refused(cell: object) -> None:
    with pytest.raises(UsageError, match="here"):
        TASK.read({"text": "x", "labels": cell}, "here")


def test_a_label_that_no_record_has_is_refused() -> None:
    some = [LabelledText("x", (1, 0, 0)), LabelledText("y", (0, 1, 0))]
    with pytest.raises(UsageError, match="'c'"):
        TASK.check_values(some)
    TASK.check_values([*some, LabelledText("z", (0, 0, 1))])


def test_a_canary_is_wrong_in_every_label() -> None:
    wrong = TASK.canary(LabelledText("x", (1, 0, 0)), np.random.default_rng(0))
    assert wrong == LabelledText("x", (0, 1, 1))
