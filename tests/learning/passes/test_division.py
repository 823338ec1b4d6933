"""Which records share a pass, and that the answer for one depends on that one alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.learning.passes.division import EMBEDDED, Passes, Shape

LONGEST, ANSWER = 300, 90
OF_ONE = st.lists(st.tuples(st.integers(0, 9), st.integers(1, LONGEST)), max_size=40)
OF_TWO = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, LONGEST), st.integers(1, ANSWER)), max_size=40
)


@given(OF_ONE | OF_TWO, st.integers(1, 100))
def test_every_record_is_in_one_pass_with_its_unit_or_with_its_like(
    records: list[tuple[int, ...]], most: int
) -> None:
    units = np.array([unit for unit, *_ in records], np.int64)
    tokens = np.array([lengths for _, *lengths in records], np.int64)
    passes = Passes(LONGEST, 384, (ANSWER,) * (len(records[0]) - 2 if records else 0))
    parts = list(passes.divide(units, tokens, most))
    together = np.concatenate([np.zeros(0, np.int64), *parts])
    assert sorted(together.tolist()) == list(range(len(records)))
    for part in parts:
        if len(set(units[part].tolist())) == 1:
            assert len(part) == np.sum(units == units[part[0]])
        else:
            assert len(set(units[part].tolist())) == len(part) <= most
            assert len({passes.shape(*tokens[i].tolist()) for i in part}) == 1
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
    assert sorted(n for lengths in shapes.values() for (n,) in lengths) == list(range(1, 21))


def test_a_pass_holds_as_many_as_is_worth_while_and_no_more_than_can_be_kept_apart() -> None:
    passes = Passes(LONGEST, 384)
    short, long = passes.shape(20), passes.shape(290)
    assert (passes.most(short, 1000), passes.most(long, 1000)) == (16, 1)
    assert passes.most(short, 10) == 4
    passes.limits[short] = 4
    assert passes.most(short, 1000) == 4
    sizes = [len(part) for part in passes.divide(np.arange(7), np.full((7, 1), 20), 1000)]
    assert sizes == [4, 1, 1, 1]
    assert passes.most(EMBEDDED, 1000) == 64


@pytest.mark.parametrize(("width", "most"), [(384, 4), (576, 1), (8192, 1), (10**6, 1)])
def test_the_wider_a_model_the_fewer_records_share_a_pass(width: int, most: int) -> None:
    passes = Passes(256, width)
    assert passes.most(passes.shape(256), 1000) == most
    assert passes.shared_tokens(1000) >= 256


def test_a_record_of_several_sequences_has_a_length_for_each() -> None:
    """A long source with a short answer: the answer is not padded to the source's length."""
    passes = Passes(LONGEST, 384, (ANSWER,))
    assert passes.padded_lengths(280, 5) == (280, 16)
    assert passes.shape(17, 89) == Shape(32, padded=True, further=(Shape(90, padded=True),))
    assert passes.shape(17, 90) == Shape(32, padded=True, further=(Shape(90, padded=False),))
    assert passes.most(passes.shape(10, 10), 64) == 16
    assert passes.most(passes.shape(100, 60), 64) == 4
    assert passes.most(passes.shape(200, 60), 64) == 1
    assert passes.shared_tokens(64) == 1024


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, LONGEST), st.integers(1, ANSWER))
def test_whatever_shape_may_be_shared_is_one_that_a_check_tries(
    longest: int, answer: int, tokens: int, other: int
) -> None:
    passes = Passes(longest, 384, (answer,))
    lengths = (min(tokens, longest), min(other, answer))
    shape = passes.shape(*lengths)
    tried = passes.shared_shapes()
    assert (shape in tried) == (passes.most(shape, 64) > 1)
    assert all(passes.shape(*one) == which for which, found in tried.items() for one in found)
    assert len(tried) < 200


def test_records_that_are_no_texts_any_more_keep_to_their_own_limit() -> None:
    passes = Passes(LONGEST, 384)
    passes.limits[EMBEDDED] = 1
    sizes = [len(part) for part in passes.divide(np.arange(4), np.zeros((4, 1), np.int64), 64)]
    assert sizes == [1, 1, 1, 1]
