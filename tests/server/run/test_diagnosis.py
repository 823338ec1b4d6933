"""Each cause of a poor accuracy is named, with what to change, and a sound run is left alone."""

from pathlib import Path
from typing import Any

import pytest

from hortus.protocol.plan import Plan
from hortus.server.run.diagnosis import Compared, chance_level, diagnose
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


def plan(folder: Path, **changes: Any) -> Plan:
    (folder / "test.csv").write_text("text,label\nx,a\ny,a\nz,b\nw,c\n")
    return Plan.model_validate(PLAN | {"evaluation": folder / "test.csv"} | changes)


def rounds(accuracies: list[float], noise: float | None = 1.0) -> list[RoundRecord]:
    return [
        RoundRecord(number, ("x", "y"), 1, 1, 1.0, {"accuracy": accuracy}, noise)
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
        (FLAT, 1.0, Compared(cut=0.02), ("smaller privacy.clipping_norm than 1",)),
        (FLAT, 1.0, Compared(cut=0.99), ("Nearly every gradient is cut",)),
        (FLAT, 1.0, Compared(without_privacy=0.9), ("Privacy costs 10.0 points",)),
        (FLAT, 1.0, Compared(without_privacy=0.805), ("costs next to nothing",)),
        ([0.1 * n for n in range(9)], 1.0, Compared(), ("still rising",)),
    ],
)
def test_what_stands_out_is_said_with_what_to_change(
    tmp_path: Path,
    accuracies: list[float],
    noise: float,
    compared: Compared,
    words: tuple[str, ...],
) -> None:
    found = diagnose(plan(tmp_path), rounds(accuracies, noise), compared)
    assert len(found.advice) == bool(words)
    assert all(word in found.advice[0] for word in words)


def test_every_measure_that_is_known_is_shown(tmp_path: Path) -> None:
    compared = Compared(best_alone=0.6, without_privacy=0.9, cut=0.5)
    measures = diagnose(plan(tmp_path), rounds(FLAT, 1.25), compared).measures
    assert list(measures.values()) == ["80.0 %", "50.0 %", "60.0 %", "90.0 %", "50.0 %", "1.2"]


def test_a_run_without_evaluation_records_says_so_and_one_whose_file_is_gone_is_told_of_no_chance(
    tmp_path: Path,
) -> None:
    bare = plan(tmp_path, evaluation=None)
    assert chance_level(bare) is None
    unmeasured = [RoundRecord(0, ("x", "y"), 1, 1, 1.0, {}, 1.0)]
    assert "add `evaluation`" in diagnose(bare, unmeasured, Compared()).advice[0]
    moved = plan(tmp_path)
    assert chance_level(moved) == 0.5
    (tmp_path / "test.csv").unlink()
    assert chance_level(moved) is None


def test_a_head_alone_has_no_rank_to_lower(tmp_path: Path) -> None:
    headed = plan(tmp_path, adapter={"kind": "head"})
    (noise,) = diagnose(headed, rounds(FLAT, 4.0), Compared()).advice
    assert "adapter.rank" not in noise
