"""The sampler against the exact mass function.

Every χ² test fails for a correct sampler with probability 1e-6 over the choice of its seed; the
seeds are fixed, so a test that passes goes on passing.
"""

from collections.abc import Callable
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from hortus.privacy import discrete_gaussian as dg
from hortus.privacy.discrete_gaussian import sample
from hortus.privacy.randomness import Stream, UnsafeSeededRandomness

FALSE_FAILURE = 1e-6
SIZE = 400_000


def stream(*context: str | int) -> Stream:
    return UnsafeSeededRandomness(11, "test").stream(*context)


def bins(sigma: int) -> NDArray[np.float64]:
    """Edges between integers, at most 401 bins over ±4σ and the tails: single integers to σ = 50."""
    step = max(1, round(8 * sigma / 400))
    return np.arange(-4 * sigma, 4 * sigma + step, step) - 0.5


def expected(sigma: int, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    n = np.arange(-12 * sigma, 12 * sigma + 1, dtype=np.float64)
    mass = np.exp(-(n**2) / (2.0 * sigma**2))
    cells = np.bincount(np.searchsorted(edges, n), weights=mass, minlength=len(edges) + 1)
    return cells / cells.sum()


def p_value(drawn: NDArray[np.int64], sigma: int) -> float:
    edges = bins(sigma)
    observed = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges) + 1)
    share = expected(sigma, edges)
    keep = share * len(drawn) > 5
    statistic = np.sum((observed - share * len(drawn))[keep] ** 2 / (share * len(drawn))[keep])
    return float(chi2.sf(statistic, int(keep.sum()) - 1))


@pytest.mark.parametrize("sigma", [1, 2, 7, 15, 16, 31, 32, 47, 1000, 2**17 + 1])
def test_the_sampler_follows_the_mass_function(sigma: int) -> None:
    assert p_value(sample(sigma, SIZE, stream("chi", sigma)), sigma) > FALSE_FAILURE


@pytest.mark.parametrize(
    "bug",
    [
        lambda x: x + (np.arange(len(x)) % 5 == 0),  # off by one in every fifth
        lambda x: np.where((x == 0) & (np.arange(len(x)) % 2 == 0), 1, x),  # zero too rare
        lambda x: np.rint(x * 1.1).astype(np.int64),  # too wide
        np.abs,
    ],
    ids=["off by one", "zero too rare", "too wide", "no sign"],
)
def test_the_chi_square_test_catches_a_planted_bug(
    bug: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> None:
    drawn = sample(7, SIZE, stream("bug"))
    assert p_value(bug(drawn), 7) < FALSE_FAILURE


def test_without_the_rejection_of_negative_zero_the_test_would_fail() -> None:
    drawn = sample(2, SIZE, stream("zero"))
    zeros = np.zeros(round((drawn == 0).sum()), np.int64)
    assert p_value(np.concatenate([drawn, zeros]), 2) < FALSE_FAILURE


def test_mean_and_variance_are_those_of_the_distribution() -> None:
    sigma = 2**20
    drawn = sample(sigma, SIZE, stream("moments")) / sigma
    assert abs(drawn.mean()) < 5 / SIZE**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / SIZE) ** 0.5


@pytest.mark.parametrize("size", [0, 1, 17])
def test_exactly_as_many_as_asked_for_come(size: int) -> None:
    drawn = sample(5, size, stream("size"))
    assert drawn.shape == (size,)
    assert drawn.dtype == np.int64


@pytest.mark.parametrize("sigma", [0, -1, 2**41])
def test_a_sigma_out_of_range_is_refused(sigma: int) -> None:
    with pytest.raises(ValueError, match="sigma"):
        sample(sigma, 1, stream())


def test_with_every_comparison_in_doubt_the_distribution_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sends all comparisons through the exact path, which the fast one hardly ever takes."""
    monkeypatch.setattr(dg, "_DOUBT", 2.0)
    monkeypatch.setattr(dg, "_bins", dg._bins.__wrapped__)
    assert p_value(sample(33, 2000, stream("slow")), 33) > FALSE_FAILURE


@pytest.mark.parametrize("sigma", [1, 16, 33, 10**6 + 1, dg.MAX_SIGMA])
def test_no_shortcut_decides_what_the_exact_numbers_would_decide_otherwise(sigma: int) -> None:
    """Not statistics: each table against 200 bits of what it stands for."""
    table = dg._bins(sigma)
    width = 1 << table.width_bits
    with mpmath.workprec(264):
        exact = [mpmath.mpf(0), *dg._cumulative(sigma, table.width_bits, 200)]
        for k, told in enumerate(table.cumulative):
            assert abs(exact[k + 1] - mpmath.mpf(float(told))) < 2.0**-48
            cells = np.flatnonzero(table.guide == k)
            if cells.size:
                assert np.array_equal(cells, np.arange(cells[0], cells[-1] + 1))
                assert exact[k] * 2**16 <= int(cells[0])
                assert int(cells[-1]) + 1 <= exact[k + 1] * 2**16
            least = table.acceptance_exactly(k * width + width - 1, 0)
            assert mpmath.mpf(int(table.certain[k])) / 2**64 <= least
    assert np.mean(table.guide == 0xFFFF) < 0.01
    assert table.certain[-1] == 0


def test_a_shortcut_that_is_too_generous_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every j of a bin is kept; every cell on a border goes to the bin before it."""
    table = dg._bins(33)
    all_kept = replace(table, certain=np.full_like(table.certain, 2**64 - 1))
    border = np.flatnonzero(table.guide == 0xFFFF)
    before = table.guide.copy()
    before[border] = before[np.maximum(border - 1, 0)]
    for wrong in (all_kept, replace(table, guide=np.where(before == 0xFFFF, 0, before))):
        monkeypatch.setattr(dg, "_bins", lambda _, wrong=wrong: wrong)
        assert p_value(sample(33, 4 * SIZE, stream("generous")), 33) < FALSE_FAILURE


def test_the_exact_path_decides_with_the_right_frequency() -> None:
    """Within the 2⁻⁵³ cell that holds p, u < p with the cell's own share below p."""
    share = mpmath.mpf(3) / 4

    def value(_: int) -> mpmath.mpf:
        return mpmath.mpf(1) / 2 + share * mpmath.mpf(2) ** -53

    hits = sum(dg.is_below(0.5, value, stream("cell", i)) for i in range(4000))
    assert abs(hits / 4000 - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5
