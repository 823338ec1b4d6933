"""Sensitivity as integers, the noise that is really added, and what happens without each of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.privacy.mechanism import FixedPoint, Mechanism
from hortus.privacy.randomness import UnsafeSeededRandomness
from hortus.protocol.errors import UsageError

C = 0.7


def mechanism(dimension: int, shares: int = 1, multiplier: float = 1.0) -> Mechanism:
    return Mechanism.design(C, multiplier, dimension, shares, cohort=max(shares, 2), max_batch=50)


def rounded(
    values: NDArray[np.float64], dither: NDArray[np.float64], scale: int
) -> NDArray[np.int64]:
    return np.floor(values * scale + dither).astype(np.int64)


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


@settings(deadline=None)
@given(neighbours())
def test_one_unit_moves_the_integers_by_no_more_than_the_sensitivity(
    case: tuple[NDArray[np.float64], NDArray[np.float64], int],
) -> None:
    others, gradient, seed = case
    this = mechanism(len(others))
    dither = np.random.default_rng(seed).random(len(others))
    with_unit = rounded(others + gradient, dither, this.scale)
    without = rounded(others, dither, this.scale)
    moved = int(((with_unit - without) ** 2).sum())
    assert moved <= this.sensitivity**2


def test_rounding_alone_can_move_more_than_the_scaled_norm() -> None:
    """Why √d is in the sensitivity: without it, this pair of neighbours would break the bound."""
    dimension, scale = 10_000, 2**10
    gradient = np.full(dimension, C / math.sqrt(dimension))
    dither = np.full(dimension, 1 - (gradient[0] * scale) % 1 + 1e-6)
    moved = np.linalg.norm(rounded(gradient, dither, scale) - rounded(0 * gradient, dither, scale))
    assert scale * C < moved <= scale * C + math.sqrt(dimension)


def released(this: Mechanism, seed: int) -> NDArray[np.int64]:
    stream = UnsafeSeededRandomness(seed, "a").stream("noise")
    return this.release(np.zeros(this.dimension), stream)


@pytest.mark.parametrize("shares", [1, 4, 10])
def test_the_shares_together_carry_the_noise_that_is_accounted(shares: int) -> None:
    """Variance within 5 standard errors; it would not hold for σ/shares or for whole shares."""
    this = mechanism(100_000, shares, multiplier=1.3)
    total = sum(released(this, seed) for seed in range(shares))
    variance = float(np.var(total))
    claimed = (this.effective_noise_multiplier * this.sensitivity) ** 2
    tolerance = 5 * math.sqrt(2 / this.dimension)
    assert variance >= claimed * (1 - tolerance)
    assert variance <= claimed * (1 + tolerance)
    assert this.effective_noise_multiplier >= 1.3
    assert this.effective_noise_multiplier < 1.3 * 1.001


def test_the_released_vector_is_unbiased_and_decodes() -> None:
    this = mechanism(50_000, multiplier=0.5)
    values = np.full(this.dimension, 0.123456789)
    out = this.release(values, UnsafeSeededRandomness(1, "a").stream("n"))
    decoded = this.decode(out.astype(np.uint32))
    standard_error = 0.5 * C / math.sqrt(this.dimension)
    assert abs(decoded.mean() - 0.123456789) < 5 * standard_error


@given(st.integers(1, 60), st.integers(1, 2000), st.floats(0.01, 20), st.floats(0.3, 20))
def test_the_ring_never_wraps_within_the_stated_tails(
    cohort: int, batch: int, norm: float, multiplier: float
) -> None:
    try:
        this = Mechanism.design(norm, multiplier, 1000, 1, cohort=cohort, max_batch=batch)
    except UsageError:
        return
    worst = cohort * (batch * this.scale * norm + 1) + 12 * math.sqrt(cohort) * this.share_std
    assert worst < 2**31


def test_a_ring_too_small_for_the_plan_is_refused() -> None:
    with pytest.raises(UsageError, match="no room"):
        Mechanism.design(1.0, 1.0, 10_000_000, 1, cohort=100, max_batch=1_000_000)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(3),
        np.zeros(4, np.float32),
        np.array([0, 0, 0, np.nan]),
        np.array([0, 0, 0, np.inf]),
    ],
)
def test_a_sum_that_is_not_one_is_not_released(bad: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"expected|finite"):
        mechanism(4).release(bad, UnsafeSeededRandomness(1, "a").stream("n"))


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
