"""Sensitivity as integers, the noise that is really added, and what happens without each of them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.privacy.noise.discrete_gaussian import sample
from hortus.privacy.noise.mechanism import FixedPoint, Mechanism
from hortus.privacy.noise.randomness import Stream, UnsafeSeededRandomness
from hortus.runtime.errors import HortusError, UsageError

C = 0.7


def mechanism(dimension: int, shares: int = 1, multiplier: float = 1.0) -> Mechanism:
    return Mechanism.design(C, multiplier, dimension, shares, cohort=max(shares, 2), max_batch=50)


def is_within(moved: int, this: Mechanism) -> bool:
    """Whether moved ≤ (scale·C + √d)², in exact arithmetic: integers and fractions."""
    reach = this.scale * Fraction(this.clipping_norm)
    rest = moved - reach**2 - this.dimension
    return rest <= 0 or rest**2 <= 4 * reach**2 * this.dimension


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """A sum over other units, one more unit's gradient at the clipping bound, and a dither seed."""
    dimension = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    others = generator.normal(size=dimension) * draw(st.sampled_from([0.0, 1e-9, 1.0, 30.0]))
    gradient = generator.normal(size=dimension) ** draw(st.sampled_from([1, 3]))
    if draw(st.booleans()):
        gradient = np.where(np.arange(dimension) == 0, 1.0, 1e-12)
    gradient *= C / np.linalg.norm(gradient)
    return others, gradient, seed


def on_grid(this: Mechanism, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the gradient engine makes of a unit's clipped gradient."""
    return np.trunc(values / this.grid) * this.grid


@settings(deadline=None)
@given(neighbours())
def test_one_unit_moves_the_integers_by_no_more_than_the_sensitivity(
    case: tuple[NDArray[np.float64], NDArray[np.float64], int],
) -> None:
    others, gradient, seed = case
    this = mechanism(len(others))
    dither = np.random.default_rng(seed).random(len(others))
    with_unit, without = this.round(others + gradient, dither), this.round(others, dither)
    assert is_within(sum(int(n) ** 2 for n in with_unit - without), this)


@settings(deadline=None, max_examples=50)
@given(neighbours())
def test_the_bound_on_the_integers_is_the_one_that_is_accounted(
    case: tuple[NDArray[np.float64], NDArray[np.float64], int],
) -> None:
    """Planted: a unit twice as long, or a sensitivity without √d, does not pass for one of norm C."""
    others, gradient, seed = case
    this = mechanism(len(others))
    dither = np.random.default_rng(seed).random(len(others))
    moved = this.round(others + 2.1 * gradient, dither) - this.round(others, dither)
    assert not is_within(sum(int(n) ** 2 for n in moved), this)
    reach = math.ceil(this.sensitivity) + 1
    assert not is_within(reach**2, this)
    assert is_within(math.floor(this.sensitivity) ** 2, this)


def test_rounding_alone_can_move_more_than_the_scaled_norm() -> None:
    """Why √d is in the sensitivity: without it, this pair of neighbours would break the bound."""
    this = Mechanism(C, 1.0, dimension=10_000, scale=2**10, shares=1)
    gradient = np.full(this.dimension, C / math.sqrt(this.dimension))
    dither = np.full(this.dimension, 1 - (gradient[0] * this.scale) % 1 + 1e-6)
    moved = np.linalg.norm(this.round(gradient, dither) - this.round(0 * gradient, dither))
    assert this.scale * C < moved <= this.sensitivity


def test_integers_that_no_clipped_units_can_make_are_not_released() -> None:
    this = mechanism(1000)
    unit = on_grid(this, np.full(1000, C / math.sqrt(1000)))
    assert this.release(3 * unit, 3, stream(0)).shape == (1000,)
    long, short = on_grid(this, 1.01 * unit), on_grid(this, 1e-3 * unit)
    for wrong, units in ((3 * unit, 2), (long, 1), (short, 0)):
        with pytest.raises(HortusError, match="something was not clipped"):
            this.release(wrong, units, stream(0))
    this.release(0 * unit, 0, stream(0))


@given(st.integers(2, 20), st.integers(0, 2**32 - 1), st.sampled_from([24, 32]))
def test_the_ring_sum_of_releases_decodes_to_the_sum_of_the_integers(
    sites: int, seed: int, bits: int
) -> None:
    this = Mechanism.design(C, 1.0, 8, sites, cohort=sites, max_batch=50, ring_bits=bits)
    sums = on_grid(this, np.random.default_rng(seed).uniform(-C, C, (sites, 8)))
    uploads = [this.release(row, 100, stream(seed + i)) for i, row in enumerate(sums)]
    total = np.zeros(8, np.uint32)
    for upload in uploads:
        total += upload.astype(np.uint32)
    total &= np.uint32(2**bits - 1)
    assert np.array_equal(this.decode(total), np.sum(uploads, axis=0) / this.scale)


def test_a_ring_of_24_bits_wraps_at_its_own_edge_and_not_at_anothers() -> None:
    """Planted: the total is lifted modulo 2^32, or modulo 2^16; a negative sum tells them apart."""
    narrow = Mechanism(C, 1.0, 1, 1, 1, ring_bits=24)
    edges = np.array([2**23 - 1, -(2**23), -1, 2**15, -40_000])
    total = edges.astype(np.uint32) & np.uint32(2**24 - 1)
    assert narrow.decode(total).tolist() == edges.tolist()
    assert narrow.decode(edges.astype(np.uint32)).tolist() == edges.tolist()
    beyond = np.array([2**23]).astype(np.uint32)
    assert narrow.decode(beyond).tolist() == [-(2**23)]
    for wrong in (16, 32):
        lifted = Mechanism(C, 1.0, 1, 1, 1, ring_bits=wrong).decode(total)
        assert lifted.tolist() != edges.tolist()


def stream(seed: int) -> Stream:
    return UnsafeSeededRandomness(seed, "a").stream("noise")


def released(this: Mechanism, seed: int) -> NDArray[np.int64]:
    return this.release(np.zeros(this.dimension), 0, stream(seed))


def carries_the_noise(total: NDArray[np.int64], this: Mechanism, multiplier: float) -> bool:
    """Whether the variance is the asked one, within 5 standard errors."""
    asked = (multiplier * this.sensitivity) ** 2
    return bool(abs(np.var(total) / asked - 1) < 5 * math.sqrt(2 / this.dimension))


@pytest.mark.parametrize("shares", [1, 4, 10])
def test_the_shares_together_carry_the_noise_that_is_accounted(shares: int) -> None:
    this = mechanism(100_000, shares, multiplier=1.3)
    total = sum((released(this, i) for i in range(shares)), np.zeros(this.dimension, np.int64))
    assert carries_the_noise(total, this, 1.3)
    assert 1.3 <= this.effective_noise_multiplier < 1.3 * 1.001


def test_a_wrong_share_of_the_noise_is_caught() -> None:
    """Planted: half a share; σ/n for σ/√n; the whole of σ at each site; one site too few."""
    shares = 4
    this = mechanism(100_000, shares, multiplier=1.3)
    deviation = 1.3 * this.sensitivity
    for wrong in (this.share_std // 2, round(deviation / shares), round(deviation)):
        draws = [sample(wrong, this.dimension, stream(i)) for i in range(shares)]
        assert not carries_the_noise(np.sum(draws, axis=0), this, 1.3)
    too_few = np.sum([released(this, i) for i in range(shares - 1)], axis=0)
    assert not carries_the_noise(too_few, this, 1.3)


@given(st.floats(0.001, 50), st.integers(1, 60), st.integers(1, 10**7), st.floats(1e-3, 1e3))
def test_the_noise_is_the_least_that_reaches_the_multiplier(
    multiplier: float, shares: int, dimension: int, norm: float
) -> None:
    this = Mechanism(norm, multiplier, dimension, 2**16, shares)
    assert this.effective_noise_multiplier >= multiplier
    less = shares * ((this.share_std - 1) ** 2 - 9)
    assert math.sqrt(max(0, less)) < multiplier * this.sensitivity * (1 + 1e-9)


def test_the_released_vector_is_unbiased_and_decodes() -> None:
    this = mechanism(50_000, multiplier=0.5)
    values = on_grid(this, np.full(this.dimension, 0.123456789))
    out = this.release(values, 40, UnsafeSeededRandomness(1, "a").stream("n"))
    decoded = this.decode(out.astype(np.uint32))
    standard_error = 0.5 * C / math.sqrt(this.dimension)
    assert abs(decoded.mean() - 0.123456789) < 5 * standard_error


@given(
    st.integers(1, 60),
    st.integers(1, 2000),
    st.floats(0.01, 20),
    st.floats(0.3, 20),
    st.sampled_from([24, 32]),
)
def test_the_ring_never_wraps_within_the_stated_tails(
    cohort: int, batch: int, norm: float, multiplier: float, bits: int
) -> None:
    try:
        this = Mechanism.design(
            norm, multiplier, 1000, 1, cohort=cohort, max_batch=batch, ring_bits=bits
        )
    except UsageError:
        return
    worst = cohort * (batch * this.scale * norm + 1) + 12 * math.sqrt(cohort) * this.share_std
    assert worst < 2 ** (bits - 1)


def test_a_narrow_ring_pays_for_its_rounding_with_noise_and_is_not_charged_less() -> None:
    """Planted: the noise of a wide ring, or of a sensitivity without √d, does not pass here."""
    dimension = 100_000

    def of(bits: int) -> Mechanism:
        return Mechanism.design(
            C, 1.3, dimension, 4, cohort=4, max_batch=300 if bits == 24 else 3000, ring_bits=bits
        )

    narrow, wide = of(24), of(32)
    inflation = narrow.sensitivity / (narrow.scale * C) - 1
    assert 0.03 < inflation < 0.1
    assert 1.3 <= narrow.effective_noise_multiplier < 1.3 * 1.001
    total = sum((released(narrow, i) for i in range(4)), np.zeros(dimension, np.int64))
    assert carries_the_noise(total, narrow, 1.3)
    assert not carries_the_noise(total * wide.scale // narrow.scale, wide, 1.3)
    without = (1.3 * narrow.scale * C) ** 2
    assert np.var(total) / without - 1 > 5 * math.sqrt(2 / dimension)


def test_a_narrow_ring_without_room_is_refused_where_a_wide_one_would_do() -> None:
    with pytest.raises(UsageError, match="24 bits has no room") as refused:
        Mechanism.design(1.0, 1.0, 30_000, 10, cohort=10, max_batch=4756, ring_bits=24)
    assert refused.value.where == "privacy.ring_bits"
    Mechanism.design(1.0, 1.0, 30_000, 10, cohort=10, max_batch=4756)
    with pytest.raises(UsageError, match="rounded to 1/1024 in a ring of 24 bits"):
        FixedPoint.for_magnitude(16.0, 300, 24)


@pytest.mark.parametrize(
    ("norm", "dimension", "cohort", "batch"),
    [
        (1.0, 10_000_000, 100, 1_000_000),  # rounding would cost too much
        (1e12, 4, 3, 100),  # even whole numbers would wrap
        (1.0, 4, 2**25, 1),  # the smoothing of so many sites alone would wrap
    ],
)
def test_a_ring_too_small_for_the_plan_is_refused(
    norm: float, dimension: int, cohort: int, batch: int
) -> None:
    with pytest.raises(UsageError, match="no room"):
        Mechanism.design(norm, 1.0, dimension, 1, cohort=cohort, max_batch=batch)


def test_a_ring_too_small_for_so_many_plain_vectors_is_refused() -> None:
    with pytest.raises(UsageError, match="no room"):
        FixedPoint.for_magnitude(16.0, 200_000_000)


@pytest.mark.parametrize(
    ("norm", "multiplier", "dimension", "scale", "shares"),
    [
        (0.0, 1.0, 1, 1, 1),
        (math.inf, 1.0, 1, 1, 1),
        (1.0, 0.0, 1, 1, 1),
        (1.0, math.nan, 1, 1, 1),
        (1.0, 1.0, 0, 1, 1),
        (1.0, 1.0, 1, 3, 1),
        (1.0, 1.0, 1, 0, 1),
        (1.0, 1.0, 1, 1, 0),
    ],
)
def test_an_impossible_mechanism_cannot_exist(
    norm: float, multiplier: float, dimension: int, scale: int, shares: int
) -> None:
    with pytest.raises(UsageError, match="no such mechanism"):
        Mechanism(norm, multiplier, dimension, scale, shares)


@pytest.mark.parametrize(("scale", "bound"), [(0, 1.0), (3, 1.0), (4, 0.0), (4, math.inf)])
def test_an_impossible_encoding_cannot_exist(scale: int, bound: float) -> None:
    with pytest.raises(UsageError, match="no such encoding"):
        FixedPoint(scale, bound)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(3),
        np.zeros(4, np.float32),
        np.array([0, 0, 0, np.nan]),
        np.array([0, 0, 0, np.inf]),
        np.array([0, 0, 0, 1e300]),  # beyond int64: its rounding would be anything at all
    ],
)
def test_a_sum_that_is_not_one_is_not_released(bad: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        mechanism(4).release(bad, 1, UnsafeSeededRandomness(1, "a").stream("n"))


@given(st.lists(st.floats(-15, 15), min_size=1, max_size=20), st.integers(2, 50))
def test_fixed_point_sums_decode_to_the_sum(values: list[float], cohort: int) -> None:
    codec = FixedPoint.for_magnitude(16.0, cohort)
    vector = np.array(values)
    total = np.zeros(len(values), np.uint32)
    for _ in range(cohort):
        total += codec.encode(vector).astype(np.uint32)
    assert np.allclose(codec.decode(total), cohort * vector, atol=cohort / codec.scale)


def test_fixed_point_cuts_at_its_bound_and_refuses_nonsense() -> None:
    codec = FixedPoint.for_magnitude(16.0, 2)
    assert codec.decode(codec.encode(np.array([1e9, -1e9])).astype(np.uint32)).tolist() == [16, -16]
    with pytest.raises(ValueError, match="finite"):
        codec.encode(np.array([np.nan]))
