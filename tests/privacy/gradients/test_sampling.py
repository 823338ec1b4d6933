"""Who joins a step, and which records stand for a unit that has too many."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chisquare

from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.noise.randomness import Stream, UnsafeSeededRandomness

# Seeds are fixed, so nothing below fails by chance; a fresh seed would with this probability.
FALSE_FAILURE = 1e-6


def stream(number: int) -> Stream:
    return UnsafeSeededRandomness(5, "ash").stream("sample", number)


units = st.lists(st.integers(0, 6), max_size=40).map(
    lambda ids: np.unique(np.array(ids, np.int64), return_inverse=True)[1].astype(np.int64)
)


@given(units, st.integers(1, 5), st.floats(0.05, 1.0), st.integers(0, 2**32))
def test_a_unit_joins_whole_up_to_the_cap(
    of: NDArray[np.int64], cap: int, rate: float, seed: int
) -> None:
    capped = sample_records(of, rate, cap, stream(seed))
    whole = sample_records(of, rate, None, stream(seed))
    held = np.bincount(of)
    joined = np.unique(of[whole])
    assert np.array_equal(np.bincount(of[whole], minlength=len(held))[joined], held[joined])
    assert np.array_equal(np.unique(of[capped]), joined)
    drawn = np.bincount(of[capped], minlength=len(held))
    assert np.array_equal(drawn[joined], np.minimum(held, cap)[joined])
    assert np.array_equal(capped, np.unique(capped))


def test_units_join_with_the_rate_whatever_they_hold() -> None:
    of = np.repeat(np.arange(4000), np.arange(4000) % 4 + 1)
    for large in (False, True):
        some = np.flatnonzero((np.arange(4000) % 4 == 3) == large)
        joined = np.intersect1d(np.unique(of[sample_records(of, 0.3, 2, stream(0))]), some)
        low, high = binom.interval(1 - FALSE_FAILURE, len(some), 0.3)
        assert low <= len(joined) <= high


def subsets_p_value(draw: "list[tuple[int, ...]]") -> float:
    counts = Counter(draw)
    return float(chisquare([counts[pair] for pair in combinations(range(5), 2)]).pvalue)


def test_every_subset_of_a_units_records_is_as_likely_and_fresh_for_each_step() -> None:
    of = np.zeros(5, np.int64)
    drawn = [tuple(sample_records(of, 1.0, 2, stream(i)).tolist()) for i in range(4000)]
    assert subsets_p_value(drawn) > FALSE_FAILURE
    lag = [first for first, second in pairwise(drawn) if second == (0, 1)]
    assert subsets_p_value(lag) > FALSE_FAILURE


def test_a_biased_subset_would_be_seen() -> None:
    """Planted: the first records win; the same ones in every step."""
    of = np.zeros(5, np.int64)
    first = [(0, 1)] * 4000
    same = [tuple(sample_records(of, 1.0, 2, stream(0)).tolist())] * 4000
    assert max(subsets_p_value(first), subsets_p_value(same)) < FALSE_FAILURE


@pytest.mark.parametrize("cap", [None, 3])
def test_no_records_give_none(cap: int | None) -> None:
    assert sample_records(np.zeros(0, np.int64), 0.5, cap, stream(1)).size == 0
