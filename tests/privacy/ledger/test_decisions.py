"""What an operator decides is refused where nobody could later say what was decided, or by whom."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from hortus.privacy.ledger.decisions import (
    EVERY_DATASET,
    Admitted,
    Approved,
    Declined,
    Disjoint,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)

A, B, PLAN = "a" * 64, "b" * 64, "e" * 64
GOOD: dict[str, Callable[..., Any]] = {
    "grant": lambda dataset=A, epsilon=1, reason="why": Granted(dataset, epsilon, reason),
    "freeze": lambda dataset=A, reason="why": Frozen(dataset, reason),
    "unfreeze": lambda dataset=A, reason="why": Unfrozen(dataset, reason),
    "disjoint": lambda dataset=A, others=(B,), operator="Ada", reason="why": Disjoint(
        dataset, others, operator, reason
    ),
    "approval": lambda plan=PLAN, name="study", operator="Ada", unit="record", epsilon=1, delta=1e-5: (
        Approved(plan, name, operator, unit, epsilon, delta)
    ),
    "admission": lambda plan=PLAN, name="study", unit="record", epsilon=1, delta=1e-5: Admitted(
        plan, name, unit, epsilon, delta
    ),
    "withdrawal": lambda plan=PLAN, name="study", operator="Ada", reason="why": Withdrawn(
        plan, name, operator, reason
    ),
    "refusal": lambda **changes: Declined(
        **{"plan": PLAN, "run": "", "round": 0, "dataset": "", "reason": "why"} | changes
    ),
}
BAD: list[tuple[str, dict[str, Any]]] = [
    *(("grant", {"epsilon": epsilon}) for epsilon in (0, -1, math.inf, math.nan)),
    *((kind, {"dataset": "a" * 63}) for kind in ("grant", "freeze", "unfreeze", "disjoint")),
    *(
        (kind, {"reason": text})
        for kind in ("grant", "freeze", "refusal")
        for text in ("", "x" * 501)
    ),
    *(("disjoint", {"others": others}) for others in ((), (A,), (B, B), ("b",))),
    *((kind, {"operator": " "}) for kind in ("disjoint", "approval", "withdrawal")),
    *((kind, {"name": "x" * 101}) for kind in ("approval", "admission", "withdrawal")),
    *((kind, {"plan": "E" * 64}) for kind in ("approval", "admission", "withdrawal", "refusal")),
    *((kind, {"epsilon": -0.1}) for kind in ("approval", "admission")),
    *((kind, {"delta": 0.5}) for kind in ("approval", "admission")),
    *((kind, {"unit": ""}) for kind in ("approval", "admission")),
    ("refusal", {"run": "0" * 31}),
    ("refusal", {"round": -1}),
]


@pytest.mark.parametrize("kind", GOOD)
def test_a_decision_carries_its_kind_and_exact_numbers(kind: str) -> None:
    body = GOOD[kind]()
    assert body.kind == kind
    assert isinstance(getattr(body, "epsilon", 1.0), float)


@pytest.mark.parametrize(("kind", "changes"), BAD, ids=str)
def test_a_decision_that_nobody_could_check_is_refused(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="."):
        GOOD[kind](**changes)


@pytest.mark.parametrize("kind", ["grant", "freeze", "unfreeze"])
def test_a_decision_may_be_about_every_dataset(kind: str) -> None:
    assert GOOD[kind](dataset=EVERY_DATASET).dataset == "*"


def test_an_approval_without_noise_has_no_bound() -> None:
    assert GOOD["approval"](epsilon=math.inf).epsilon == math.inf
