"""A charge is refused where it could not be counted, or would say that it is private and is not."""

import math
from typing import Any

import pytest
from helpers.charges import make_charge

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.charges import Added, Charged, Level, Scope
from hortus.protocol.privacy import Noise

LIFETIME = Level(Scope.LIFETIME, "", 1.0, 2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "0" * 31},
        {"plan": "E" * 64},
        {"unit": ""},
        {"unit": "x" * 201},
        {"round": -1},
        {"attempt": 2**31 + 1},
        {"releases": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.0000001},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": math.nan},
        {"clipping_norm": 0.0},
        {"delta": 0.0},
        {"delta": 0.5},
        {"mode": "central"},
        {"mechanism": "gaussian"},
    ],
    ids=str,
)
def test_what_no_accountant_could_count_is_no_charge(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        make_charge(**changes)


@pytest.mark.parametrize("mode", Noise)
@pytest.mark.parametrize("mechanism", Added)
@pytest.mark.parametrize("multiplier", [0.0, 4.0])
def test_noise_is_said_alike_by_mode_mechanism_and_multiplier(
    mode: Noise, mechanism: Added, multiplier: float
) -> None:
    bare = mode is Noise.UNSAFE_NONE, mechanism is Added.NOTHING, multiplier == 0
    changes = {"mode": mode.value, "mechanism": mechanism.value, "noise_multiplier": multiplier}
    if len(set(bare)) > 1:
        with pytest.raises(ValueError, match="do not go together"):
            make_charge(**changes)
        return
    charge = make_charge(**changes)
    assert charge.is_private is (mechanism in (Added.GAUSSIAN, Added.REHEARSED))
    if charge.is_private:
        assert charge.event == GaussianEvent(1.0, 4.0)


def test_numbers_are_floats_whatever_they_were_given_as() -> None:
    charge = make_charge(sampling_rate=1, noise_multiplier=4, clipping_norm=1)
    assert all(isinstance(n, float) for n in (charge.sampling_rate, charge.clipping_norm))
    assert charge == make_charge(sampling_rate=1.0, noise_multiplier=4.0, clipping_norm=1.0)
    assert charge.key == (charge.session, 0, 0)


@pytest.mark.parametrize(
    ("scope", "period", "epsilon", "limit"),
    [
        (Scope.LIFETIME, "2026", 1.0, 2.0),
        (Scope.PERIOD, "", 1.0, 2.0),
        (Scope.PERIOD, "2026-13", 1.0, 2.0),
        (Scope.PERIOD, "2026-Q5", 1.0, 2.0),
        (Scope.PLAN, "", -1e-9, 2.0),
        (Scope.PLAN, "", math.nan, 2.0),
        (Scope.PLAN, "", 1.0, 0.0),
    ],
)
def test_a_level_that_makes_no_sense_is_refused(
    scope: Scope, period: str, epsilon: float, limit: float
) -> None:
    with pytest.raises(ValueError, match="ε|period"):
        Level(scope, period, epsilon, limit)


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (LIFETIME, "its lifetime"),
        (Level(Scope.PLAN, "", math.inf, math.inf), "its plan"),
        (Level(Scope.PERIOD, "2026-11", 0, 1), "2026-11"),
        (Level(Scope.PERIOD, "2026-Q4", 0, 1), "2026-Q4"),
    ],
)
def test_a_level_is_named_in_words(level: Level, name: str) -> None:
    assert level.name == name


def test_a_charge_has_a_level_a_scope_and_joins_others_once() -> None:
    own, other = "d" * 64, "e" * 64
    plan = Level(Scope.PLAN, "", 0.5, 1.0)
    assert Charged(make_charge(), own, (other,), (LIFETIME, plan)).epsilon_after == 1.0
    for joins, levels, said in (
        ((own,), (LIFETIME,), "joined with others"),
        ((other, other), (LIFETIME,), "joined with others"),
        ((), (plan, LIFETIME), "the lifetime's first"),
        ((), (LIFETIME, LIFETIME), "one level a scope"),
        ((), (), "one level a scope"),
    ):
        with pytest.raises(ValueError, match=said):
            Charged(make_charge(), own, joins, levels)
