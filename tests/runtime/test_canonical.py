"""Equal values have equal bytes; what has two readings has none."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.runtime.canonical import KeyTwiceError, canonical_json, digest, distinct_keys

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES | st.text('aé\u0301\n"\\🌱', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé", max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text("abcé", max_size=3), VALUES, max_size=4))
def test_bytes_depend_on_values_and_not_on_their_order(value: dict[str, object]) -> None:
    encoded = canonical_json(value)
    assert canonical_json(dict(reversed(value.items()))) == encoded
    assert canonical_json(json.loads(encoded)) == encoded
    assert len(digest(value)) == 64


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_of_json_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="float"):
        canonical_json({"epsilon": number})


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1, True), ("1", 1), ("", None), ("é", "e\u0301")]
)
def test_what_differs_has_another_hash(one: object, other: object) -> None:
    assert digest({"value": one}) != digest({"value": other})


def test_a_key_that_comes_twice_is_named() -> None:
    with pytest.raises(KeyTwiceError, match="seed"):
        json.loads('{"a": {"seed": 1, "seed": 2}}', object_pairs_hook=distinct_keys)
    assert json.loads('{"a": {"b": 1}}', object_pairs_hook=distinct_keys) == {"a": {"b": 1}}
