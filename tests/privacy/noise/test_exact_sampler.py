"""The sampler that both laws share: what its shortcuts decide is what the exact numbers would.

Every χ² test fails for a correct sampler with probability 1e-6 over the choice of its seed; the
seeds are fixed, so a test that passes goes on passing.
"""

from collections.abc import Callable
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ive

from hortus.privacy.noise import exact_sampler
from hortus.privacy.noise.discrete_gaussian import DiscreteGaussian
from hortus.privacy.noise.exact_sampler import Law, sample
from hortus.privacy.noise.randomness import Stream, UnsafeSeededRandomness
from hortus.privacy.noise.skellam import Skellam
from tests.helpers.chi_square import p_value

FALSE_FAILURE = 1e-6
SIZE = 400_000
KINDS: list[Callable[[int], Law]] = [DiscreteGaussian, Skellam]


def stream(*context: str | int) -> Stream:
    return UnsafeSeededRandomness(11, "test").stream(*context)


def fits(drawn: NDArray[np.int64], law: Law, cells: int = 400) -> bool:
    def mass(n: NDArray[np.float64]) -> NDArray[np.float64]:
        variance = float(law.sigma**2)
        return ive(n, variance) if isinstance(law, Skellam) else np.exp(-(n**2) / (2 * variance))

    return p_value(drawn, law.sigma, mass, cells) > FALSE_FAILURE


BUGS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {
    "off by one": lambda x: x + (np.arange(len(x)) % 5 == 0),  # in every fifth
    "zero too rare": lambda x: np.where((x == 0) & (np.arange(len(x)) % 2 == 0), 1, x),
    "too wide": lambda x: np.rint(x * 1.1).astype(np.int64),
    "no sign": np.abs,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bug", BUGS)
def test_the_chi_square_test_catches_a_planted_bug(kind: Callable[[int], Law], bug: str) -> None:
    drawn = sample(kind(7), SIZE, stream("bug"))
    assert fits(drawn, kind(7))
    assert not fits(BUGS[bug](drawn), kind(7))


def test_without_the_rejection_of_negative_zero_the_test_would_fail() -> None:
    drawn = sample(DiscreteGaussian(2), SIZE, stream("zero"))
    zeros = np.zeros(round((drawn == 0).sum()), np.int64)
    assert not fits(np.concatenate([drawn, zeros]), DiscreteGaussian(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_sigma_gives_its_mean_and_variance(kind: Callable[[int], Law]) -> None:
    """Each of the four comparisons fails with probability 6e-7."""
    drawn = sample(kind(2**20), SIZE, stream("moments")) / 2**20
    assert abs(drawn.mean()) < 5 / SIZE**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / SIZE) ** 0.5


@pytest.mark.parametrize("size", [0, 1, 17])
def test_exactly_as_many_as_asked_for_come(size: int) -> None:
    drawn = sample(DiscreteGaussian(5), size, stream("size"))
    assert drawn.shape == (size,)
    assert drawn.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0, -1, 2**40 + 1])
def test_a_sigma_out_of_range_is_refused(kind: Callable[[int], Law], sigma: int) -> None:
    with pytest.raises(ValueError, match=f"sigma is {sigma}, not from 1 to"):
        kind(sigma)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stream_gives_the_same_numbers(kind: Callable[[int], Law]) -> None:
    first, again = (sample(kind(1000), 10_000, stream("same")) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, sample(kind(1000), 10_000, stream("other")))


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_comparison_in_doubt_the_distribution_is_the_same(
    kind: Callable[[int], Law], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sends all comparisons through the exact path, which the fast one hardly ever takes."""
    asked = []
    decide = exact_sampler._LazyUniform.is_below

    def counted(self: exact_sampler._LazyUniform, value: Callable[[int], mpmath.mpf]) -> bool:
        asked.append(value)
        return decide(self, value)

    monkeypatch.setattr(exact_sampler._LazyUniform, "is_below", counted)
    monkeypatch.setattr(exact_sampler, "_DOUBT", 2.0)
    monkeypatch.setattr(exact_sampler, "_bins", exact_sampler._bins.__wrapped__)
    drawn = sample(kind(33), 600, stream("slow"))
    assert len(asked) > 2 * len(drawn)
    assert fits(drawn, kind(33), cells=40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1, 16, 33, exact_sampler.MAX_SIGMA])
def test_no_shortcut_decides_what_the_exact_numbers_would_decide_otherwise(
    kind: Callable[[int], Law], sigma: int
) -> None:
    """Not statistics: each table against 120 bits of what it stands for."""
    table = exact_sampler._bins(kind(sigma))
    width = 1 << table.width_bits
    with mpmath.workprec(184):
        exact = [mpmath.mpf(0), *exact_sampler._cumulative(table.law, table.width_bits, 120)]
        for k, told in enumerate(table.cumulative):
            assert abs(exact[k + 1] - mpmath.mpf(float(told))) < 2.0**-46
            cells = np.flatnonzero(table.guide == k)
            if cells.size:
                assert np.array_equal(cells, np.arange(cells[0], cells[-1] + 1))
                assert exact[k] * 2**16 <= int(cells[0])
                assert int(cells[-1]) + 1 <= exact[k + 1] * 2**16
            least = table.acceptance_exactly(k * width + width - 1, 120)
            assert mpmath.mpf(int(table.certain[k])) / 2**64 <= least
    assert np.mean(table.guide == 0xFFFF) < 0.01
    assert table.certain[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [32, 33, 1000, 123_457, 2**28, exact_sampler.MAX_SIGMA])
def test_the_probability_that_floats_decide_by_errs_less_than_the_doubt(
    kind: Callable[[int], Law], sigma: int
) -> None:
    law = kind(sigma)
    width = 1 << max(0, sigma.bit_length() - 5)
    generator = np.random.default_rng(sigma)
    k = generator.integers(0, law.reach(exact_sampler.WIDEST) // width, 60)
    start = k * width
    end = start + generator.integers(0, width, 60)
    told = law.ratio(start.astype(np.float64), end.astype(np.float64))
    for one, low, high in zip(told, start, end, strict=True):
        with mpmath.workprec(160):
            exactly = law.exactly(int(high), 120) / law.exactly(int(low), 120)
            assert abs(exactly - mpmath.mpf(float(one))) < 2.0**-48


@pytest.mark.parametrize("kind", KINDS)
def test_a_shortcut_that_is_too_generous_would_be_seen(
    kind: Callable[[int], Law], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: every j of a bin is kept; every cell on a border goes to the bin before it."""
    table = exact_sampler._bins(kind(33))
    all_kept = replace(table, certain=np.full_like(table.certain, 2**64 - 1))
    border = np.flatnonzero(table.guide == 0xFFFF)
    before = table.guide.copy()
    before[border] = before[np.maximum(border - 1, 0)]
    for wrong in (all_kept, replace(table, guide=np.where(before == 0xFFFF, 0, before))):
        monkeypatch.setattr(exact_sampler, "_bins", lambda _, wrong=wrong: wrong)
        assert not fits(sample(kind(33), 4 * SIZE, stream("generous")), kind(33))


def test_the_exact_path_decides_with_the_right_frequency() -> None:
    """Within the 2⁻⁵³ cell that holds p, u < p with the cell's own share below p."""
    share = mpmath.mpf(3) / 4

    def value(_: int) -> mpmath.mpf:
        return mpmath.mpf(1) / 2 + share * mpmath.mpf(2) ** -53

    hits = sum(exact_sampler.is_below(0.5, value, stream("cell", i)) for i in range(4000))
    assert abs(hits / 4000 - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5
