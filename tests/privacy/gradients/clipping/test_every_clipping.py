"""Every clipping rule: one unit adds no more than what the mechanism is told, and changes no other's factor."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.privacy.gradients.clipping.base import Clipping, ClippingAt
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engine import _Clipper
from hortus.protocol.section import Section
from hortus.runtime.errors import HortusError, UsageError

NAMES = ("a.lora_A.w", "a.lora_B.w", "b.modules_to_save.bias", "b.modules_to_save.weight", "c.bias")
SIZE = 8  # parameters of each name
ABOVE = 1 + (len(NAMES) * SIZE + 64) * 2.0**-52  # what the engine lifts norms by
GRID = 2.0**-40
EXTREMES = [0.0, 5e-324, 1e-300, 1e-45, 1e-12, 1.0, 1e12, 1e38, 1e150]

every_rule = pytest.mark.parametrize("kind", CLIPPINGS.names())
gradients = st.builds(
    lambda seed, power: np.random.default_rng(seed).normal(size=(len(NAMES), SIZE)) * 10.0**power,
    st.integers(0, 2**32 - 1),
    st.integers(-12, 8),
)
bounds = st.floats(1e-3, 1e3)


def rule(kind: str) -> Clipping:
    return CLIPPINGS.complete({"kind": kind})


def above(clipping: ClippingAt, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """The norms of a gradient's groups, (groups, 1), as the engine computes them: never below the true ones."""
    group = np.array(clipping.groups(list(NAMES)))
    squares = np.bincount(group, weights=(gradient**2).sum(1))
    norms: NDArray[np.float64] = np.sqrt(squares) * ABOVE
    return norms[:, None]


def factors(clipping: ClippingAt, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = clipping.factors(torch.from_numpy(norms)).numpy()
    return found


def added(clipping: ClippingAt, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
    """What one unit adds, tally included."""
    norms = above(clipping, gradient)
    group = np.array(clipping.groups(list(NAMES)))
    scaled = (gradient * factors(clipping, norms)[group]).ravel()
    if not clipping.rule.moves:
        return scaled
    return np.append(scaled, clipping.rule.tally(norms, clipping.bound, GRID))


def squared(vector: NDArray[np.float64]) -> Fraction:
    return sum((Fraction(float(x)) ** 2 for x in vector.ravel()), Fraction(0))


@every_rule
@settings(deadline=None, max_examples=50)
@given(gradient=gradients, bound=bounds)
def test_a_unit_adds_no_more_than_is_charged_in_exact_arithmetic(
    kind: str, gradient: NDArray[np.float64], bound: float
) -> None:
    clipping = rule(kind).at(bound)
    assert squared(added(clipping, gradient)) <= Fraction(clipping.limit) ** 2


@every_rule
@pytest.mark.parametrize("bound", [1e-3, 1.0, 1e3])
def test_extreme_norms_stay_within_what_is_charged(kind: str, bound: float) -> None:
    clipping = rule(kind).at(bound)
    groups = 1 + max(clipping.groups(list(NAMES)))
    for norm in EXTREMES:
        norms = np.full((groups, 1), norm)
        reached = np.linalg.norm(factors(clipping, norms * ABOVE) * norms)
        assert reached <= clipping.limit
        assert norm == 0 or reached > 0 or norm < 1e-290


@every_rule
@settings(deadline=None, max_examples=30)
@given(data=st.data(), bound=bounds)
def test_a_units_factor_depends_on_that_unit_alone(
    kind: str, data: st.DataObject, bound: float
) -> None:
    clipping = rule(kind).at(bound)
    groups = 1 + max(clipping.groups(list(NAMES)))
    column = st.lists(st.floats(0, 1e6), min_size=groups, max_size=groups)
    norms = np.array(data.draw(st.lists(column, min_size=1, max_size=6))).T
    together = factors(clipping, norms)
    assert together.shape == norms.shape
    assert together.dtype == np.float64
    for unit in range(norms.shape[1]):
        assert np.array_equal(factors(clipping, norms[:, [unit]]), together[:, [unit]])
    if clipping.rule.moves:
        tally = clipping.rule.tally
        alone = [tally(norms[:, [unit]], bound, GRID) for unit in range(norms.shape[1])]
        assert tally(norms, bound, GRID) == sum(alone)


@every_rule
def test_long_gradients_come_near_the_norm(kind: str) -> None:
    """A rule that cut everything away would be private, and of no use."""
    clipping = rule(kind).at(0.7)
    long = 1e3 * np.ones((len(NAMES), SIZE))
    norms = above(clipping, long)
    reached = np.linalg.norm(factors(clipping, norms) * norms) * clipping.rule.scale(0.7)
    assert reached == pytest.approx(0.7, rel=1e-4)


@every_rule
def test_groups_are_numbered_without_gaps(kind: str) -> None:
    groups = rule(kind).groups(list(NAMES))
    assert len(groups) == len(NAMES)
    assert set(groups) == set(range(1 + max(groups)))


@every_rule
def test_a_contracts_section_is_read_as_it_was_written(kind: str) -> None:
    section = rule(kind).section
    again = Section.model_validate(json.loads(section.model_dump_json()))
    assert again == section
    assert CLIPPINGS.parse(again) == rule(kind)
    assert CLIPPINGS.parse(again).section.digest() == section.digest()


@every_rule
def test_a_section_that_leaves_out_a_value_is_no_contracts(kind: str) -> None:
    fields = rule(kind).section.fields
    for name in set(fields) - {"kind"}:
        rest = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(HortusError, match=name):
            CLIPPINGS.parse(Section.model_validate(rest))


@every_rule
@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_norm_is_positive(kind: str, bound: float) -> None:
    with pytest.raises(UsageError, match="a clipping norm is positive"):
        rule(kind).at(bound)


@every_rule
def test_every_field_says_what_it_may_do_where_nobody_has_read_the_plan(kind: str) -> None:
    assert set(rule(kind).unread) == set(type(rule(kind)).model_fields) - {"kind"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("flt", "flat"), ("per_layer", "per-layer"), ("adaptiv", "adaptive"), ("auto", "automatic")],
)
def test_an_unknown_rule_is_refused_with_the_nearest_one(written: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"no clipping rule '{written}'") as caught:
        CLIPPINGS.complete({"kind": written})
    assert meant in str(caught.value)


@contextmanager
def lets_through(
    monkeypatch: pytest.MonkeyPatch, clipping: Clipping, times: float
) -> Iterator[None]:
    """The bug: a rule whose factors are larger."""
    own = type(clipping).factors
    with monkeypatch.context() as patch:
        patch.setattr(
            type(clipping), "factors", lambda self, norms, bound: times * own(self, norms, bound)
        )
        yield


@every_rule
def test_a_rule_that_lets_more_through_is_stopped_at_its_first_unit(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    clipping = rule(kind)
    long = torch.full((len(NAMES) * SIZE,), 100.0)
    clipper = _Clipper(clipping.at(1.0), clipping.groups(list(NAMES)), [SIZE] * len(NAMES), GRID)
    clipper(long)
    with (
        lets_through(monkeypatch, clipping, 1.01),
        pytest.raises(HortusError, match="let a unit add"),
    ):
        clipper(long)
