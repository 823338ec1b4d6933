"""Which records share a pass, and that the answer for one depends on that one alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.learning.passes.division import EMBEDDED, Passes, Shape

LONGEST = 300
RECORDS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, LONGEST)), max_size=40)


def columns(records: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([unit for unit, _ in records], np.int64),
        np.array([tokens for _, tokens in records], np.int64),
    )


@given(RECORDS, st.integers(1, 100))
def test_every_record_is_in_one_pass_with_its_unit_or_with_its_like(
    records: list[tuple[int, int]], most: int
) -> None:
    units, tokens = columns(records)
    passes = Passes(LONGEST, 384)
    parts = list(passes.divide(units, tokens, most))
    together = np.concatenate([np.zeros(0, np.int64), *parts])
    assert sorted(together.tolist()) == list(range(len(records)))
    for part in parts:
        if len(set(units[part].tolist())) == 1:
            assert len(part) == np.sum(units == units[part[0]])
        else:
            assert len(set(units[part].tolist())) == len(part) <= most
            assert len({passes.shape(int(tokens[i])) for i in part}) == 1
            assert len(part) in (1, 4, 16, 64)


@pytest.mark.parametrize(
    ("tokens", "shape"),
    [
        (1, Shape(8, padded=True)),
        (7, Shape(8, padded=True)),
        (8, Shape(16, padded=True)),
        (63, Shape(64, padded=True)),
        (64, Shape(80, padded=True)),
        (255, Shape(256, padded=True)),
        (256, Shape(256, padded=False)),
        (299, Shape(299, padded=False)),
    ],
)
def test_a_length_decides_what_it_is_padded_to(tokens: int, shape: Shape) -> None:
    assert Passes(LONGEST, 384).shape(tokens) == shape


def test_nothing_is_padded_beyond_what_the_plan_lets_a_record_have() -> None:
    passes = Passes(20, 384)
    assert passes.shape(19) == Shape(20, padded=True)
    assert passes.shape(20) == Shape(20, padded=False)
    shapes = passes.shared_shapes()
    assert max(shape.tokens for shape in shapes) == 20
    assert sorted(n for lengths in shapes.values() for n in lengths) == list(range(1, 21))


def test_a_pass_holds_as_many_as_is_worth_while_and_no_more_than_can_be_kept_apart() -> None:
    passes = Passes(LONGEST, 384)
    short, long = passes.shape(20), passes.shape(290)
    assert (passes.most(short, 1000), passes.most(long, 1000)) == (16, 1)
    assert passes.most(short, 10) == 4
    passes.limits[short] = 4
    assert passes.most(short, 1000) == 4
    sizes = [len(part) for part in passes.divide(np.arange(7), np.full(7, 20), 1000)]
    assert sizes == [4, 1, 1, 1]
    assert passes.most(EMBEDDED, 1000) == 64


@pytest.mark.parametrize(("width", "most"), [(384, 4), (576, 1), (8192, 1), (10**6, 1)])
def test_the_wider_a_model_the_fewer_records_share_a_pass(width: int, most: int) -> None:
    passes = Passes(256, width)
    assert passes.most(passes.shape(256), 1000) == most
    assert passes.shared_tokens(1000) >= 256
