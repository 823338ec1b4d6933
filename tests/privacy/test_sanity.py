"""What is allowed and doubtful is asked about, and what is usual is not."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from hortus.planning.plan_file import make_plan
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.attacks.detection import true_positive_bound_of
from hortus.privacy.sanity import doubts
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget
from hortus.runtime.errors import UsageError

PLAN: dict[str, Any] = {
    "name": "usual",
    "model": "model",
    "task": {"labels": ["a", "b"]},
    "training": {"rounds": 10, "sampling_rate": 0.1, "nominal_units": 1_000},
    "privacy": {"epsilon": 8.0, "delta": 1e-5},
    "cohort": {"minimum": 5},
}
HISTORY = {GaussianEvent(0.1, 0.8): 10}


def asked(
    *, epsilon: float = 8.0, invited: int | None = 6, units: int | None = None, **changes: Any
) -> tuple[str, ...]:
    fields = {
        key: value | changes.get(key, {}) if isinstance(value, dict) else value
        for key, value in PLAN.items()
    }
    contract: Contract = make_plan(fields).contract(model_digest="0" * 64, noise_multiplier=1.0)
    history = {} if math.isinf(epsilon) else HISTORY
    return doubts(contract, history, epsilon, invited, units)


def test_a_usual_plan_is_not_asked_about() -> None:
    assert asked() == ()
    assert asked(units=700) == asked(units=2_500) == ()
    assert asked(invited=None, cohort={"minimum": 2}) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {"delta": 1e-3}}, ["privacy.delta: 0.001", "1,000 units", "1 of them", "0.0001 or less"]),
        ({"privacy": {"delta": 1e-3}, "training": {"nominal_units": 90, "sampling_rate": 0.5}}, None),
        ({"privacy": {"delta": 5e-3}, "training": {"nominal_units": 90, "sampling_rate": 0.5}}, ["0.001 or less"]),
        ({"epsilon": 10.5}, ["ε = 10.5 is large", "right about up to"]),
        ({"epsilon": math.inf}, None),
        ({"invited": 5}, ["cohort.minimum: 5 is the number of all sites"]),
        ({"training": {"sampling_rate": 0.003}}, ["0.003 of 1,000 units is 3 a step"]),
        ({"units": 300}, ["this site has 300", "about 30 of them rather than 100", "Only you"]),
        ({"units": 90_000}, ["this site has 90,000", "9e+03"]),
    ],
)  # fmt: skip
def test_what_deserves_a_second_look_is_named_with_its_field(
    changes: dict[str, Any], words: list[str] | None
) -> None:
    found = asked(**changes)
    assert len(found) == (words is not None)
    assert all(word in found[0] for word in words or ())


def test_an_attackers_success_at_a_large_epsilon_is_the_bound_of_the_noise() -> None:
    (large,) = asked(epsilon=11.0)
    assert f"up to {100 * true_positive_bound_of(HISTORY, 0.01):.0f} %" in large


@pytest.mark.parametrize("delta", [0.011, 0.05, 0.999, 1.0, math.inf, math.nan, 0.0, -1e-5])
def test_no_plan_and_no_budget_may_have_a_delta_that_promises_nothing(delta: float) -> None:
    with pytest.raises(UsageError, match=r"privacy\.delta"):
        make_plan(PLAN | {"privacy": {"epsilon": 8.0, "delta": delta}})
    with pytest.raises(ValidationError):
        Budget(epsilon=8, delta=delta)
    assert Budget(epsilon=8, delta=0.01).delta == 0.01
