"""Each cause of a poor accuracy is named, with what to change, and a sound run is left alone."""

from typing import Any

import pytest
from helpers.made_runs import classified, generated

from hortus.planning.plan_file import make_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import Better, Metric, Unit
from hortus.server.run.diagnosis import Compared, diagnose
from hortus.server.run.records import RoundRecord

PLAN: dict[str, Any] = {
    "name": "run",
    "model": "model",
    "task": {"labels": ["a", "b", "c"]},
    "training": {"rounds": 9, "sampling_rate": 0.1, "nominal_units": 100},
    "privacy": {"epsilon": 8.0},
    "cohort": {"minimum": 2},
}
FLAT = [0.8] * 9


def plan(**changes: Any) -> Plan:
    return make_plan(PLAN | changes)


def rounds(accuracies: list[float], noise: float | None = 1.0) -> list[RoundRecord]:
    return [
        RoundRecord(number, ("x", "y"), 1, 1, 1.0, classified(accuracy, chance=0.5), noise)
        for number, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    ("accuracies", "noise", "compared", "words"),
    [
        (FLAT, 1.0, Compared(), ()),
        (FLAT, 1.0, Compared(cut=0.5, best_alone=0.6), ()),
        ([0.51] * 9, 1.0, Compared(), ("nothing was learnt", "--baselines")),
        (
            FLAT,
            4.0,
            Compared(),
            ("the noise is 4 times the signal", "sampling_rate", "adapter.rank"),
        ),
        (FLAT, 0.1, Compared(), ("well below the signal",)),
        (FLAT, 1.0, Compared(cut=0.02), ("privacy.clipping_norm below 1",)),
        (FLAT, 1.0, Compared(cut=0.99), ("Nearly every gradient is clipped",)),
        (FLAT, 1.0, Compared(without_privacy=0.9), ("Privacy costs 10.0 points",)),
        (FLAT, 1.0, Compared(without_privacy=0.805), ("costs next to nothing",)),
        ([0.1 * n for n in range(9)], 1.0, Compared(), ("still rising",)),
    ],
)
def test_what_stands_out_is_said_with_what_to_change(
    accuracies: list[float],
    noise: float,
    compared: Compared,
    words: tuple[str, ...],
) -> None:
    found = diagnose(plan(), rounds(accuracies, noise), compared)
    assert len(found.advice) == bool(words)
    assert all(word in found.advice[0] for word in words)


def test_every_measure_that_is_known_is_shown() -> None:
    compared = Compared(best_alone=0.6, without_privacy=0.9, cut=0.5)
    measures = diagnose(plan(), rounds(FLAT, 1.25), compared).measures
    assert list(measures.values()) == ["80.0 %", "50.0 %", "60.0 %", "90.0 %", "50.0 %", "1.2"]


def test_a_run_without_evaluation_records_says_so() -> None:
    unmeasured = [RoundRecord(0, ("x", "y"), 1, 1, 1.0, (), 1.0)]
    found = diagnose(plan(), unmeasured, Compared(without_privacy=0.9))
    assert "add `evaluation`" in found.advice[0]
    assert list(found.measures) == ["noise over signal in a sum, last rounds"]


SHRINKING = [40.0, 38.0, 30.0, 28.0, 26.0, 22.0, 20.0, 18.0, 16.0]


@pytest.mark.parametrize(
    ("reached", "compared", "words"),
    [
        ([16.0] * 9, Compared(), ()),
        (
            [99.0] * 9,
            Compared(),
            ("no better than always the words' own frequencies", "--baselines"),
        ),
        ([120.0] * 9, Compared(), ("nothing was learnt",)),
        ([16.0] * 9, Compared(without_privacy=12.0), ("Privacy raises perplexity from 12 to 16.",)),
        (
            [16.0] * 9,
            Compared(without_privacy=15.9),
            ("next to nothing", "perplexity is limited by"),
        ),
        ([16.0] * 9, Compared(without_privacy=19.0), ("next to nothing",)),
        (SHRINKING, Compared(), ("Perplexity was still falling at the end",)),
        (SHRINKING[::-1], Compared(), ()),
        ([16.0] * 8 + [None], Compared(without_privacy=12.0), ("Perplexity is not finite",)),
    ],
)
def test_where_lower_is_better_all_is_said_the_other_way_round(
    reached: list[float | None], compared: Compared, words: tuple[str, ...]
) -> None:
    measured = [
        RoundRecord(number, ("x", "y"), 1, 1, 1.0, generated(perplexity, chance=100.0), 1.0)
        for number, perplexity in enumerate(reached)
    ]
    found = diagnose(plan(), measured, compared)
    assert len(found.advice) == bool(words)
    assert all(word in found.advice[0] for word in words)


def test_points_are_named_where_a_scale_ends_and_both_values_where_it_does_not() -> None:
    def told(unit: Unit, better: Better, value: float, without: float) -> str:
        metrics = (Metric("it", value, unit, better, primary=True),)
        one = RoundRecord(0, ("x", "y"), 1, 1, 1.0, metrics, 1.0)
        return " ".join(diagnose(plan(), [one], Compared(without_privacy=without)).advice)

    assert told(Unit.PERCENT, Better.HIGHER, 0.7, 0.8) == "Privacy costs 10.0 points of it."
    assert told(Unit.PERCENT, Better.LOWER, 0.3, 0.25) == "Privacy adds 5.0 points to it."
    assert told(Unit.POINTS, Better.HIGHER, 30.0, 41.0) == "Privacy costs 11.0 points of it."
    assert told(Unit.NATS, Better.LOWER, 1.5, 1.25) == (
        "Privacy raises it from 1.250 nats to 1.500 nats."
    )
    assert told(Unit.NUMBER, Better.HIGHER, -8.0, -6.0) == "Privacy lowers it from -6 to -8."
    assert told(Unit.COUNT, Better.LOWER, 2000, 1500) == "Privacy raises it from 1,500 to 2,000."


def test_a_head_alone_has_no_rank_to_lower() -> None:
    headed = plan(adapter={"kind": "head"})
    (noise,) = diagnose(headed, rounds(FLAT, 4.0), Compared()).advice
    assert "adapter.rank" not in noise
