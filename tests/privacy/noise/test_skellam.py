"""Skellam noise against its exact mass function, and what its price rests on.

Every χ² test fails for a correct sampler with probability 1e-6 over the choice of its seed; the
seeds are fixed, so a test that passes goes on passing.
"""

import math

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ive

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.renyi import ORDERS, divergences
from hortus.privacy.noise.discrete_gaussian import DiscreteGaussian
from hortus.privacy.noise.exact_sampler import sample
from hortus.privacy.noise.randomness import Stream, UnsafeSeededRandomness
from hortus.privacy.noise.skellam import Skellam
from tests.helpers.chi_square import p_value

FALSE_FAILURE = 1e-6
SIZE = 400_000


def stream(*context: str | int) -> Stream:
    return UnsafeSeededRandomness(11, "test").stream(*context)


def p_value_of(drawn: NDArray[np.int64], sigma: int) -> float:
    return p_value(drawn, sigma, lambda n: ive(n, float(sigma**2)))


@pytest.mark.parametrize("sigma", [1, 2, 7, 15, 16, 31, 32, 47, 1000, 2**14 + 1])
def test_the_sampler_follows_the_mass_function(sigma: int) -> None:
    assert p_value_of(sample(Skellam(sigma), SIZE, stream("chi", sigma)), sigma) > FALSE_FAILURE


@pytest.mark.parametrize("sigma", [1, 2])
def test_it_is_a_difference_of_poisson_variables(sigma: int) -> None:
    """Numpy's Poisson numbers pass the test that ours do, and a discrete Gaussian's fail it."""
    generator = np.random.default_rng(5)
    first, second = generator.poisson(sigma**2 / 2, (2, SIZE))
    assert p_value_of(first - second, sigma) > FALSE_FAILURE
    assert p_value_of(sample(DiscreteGaussian(sigma), SIZE, stream("other")), sigma) < FALSE_FAILURE


def test_shares_add_up_to_the_law_of_their_sum() -> None:
    """Three shares of variance 3² are one of variance 27: exactly, where sigma is no integer too."""
    total = sum(sample(Skellam(3), SIZE, stream("share", site)) for site in range(3))
    assert p_value(np.asarray(total), 5, lambda n: ive(n, 27.0)) > FALSE_FAILURE


def test_the_tails_are_the_laws_not_a_gaussians() -> None:
    """Beyond 4σ Skellam noise of σ = 2 has three times a discrete Gaussian's mass: 28 standard errors more."""
    size = 4_000_000
    n = np.arange(8, 60)
    share = 2 * float(ive(n, 4.0).sum())
    found = np.mean(np.abs(sample(Skellam(2), size, stream("tail"))) >= 8)
    assert abs(found - share) < 5 * (share / size) ** 0.5  # fails with probability 6e-7
    gaussian = np.exp(-(np.arange(-60, 61) ** 2) / 8)
    assert share > 2 * gaussian[68:].sum() * 2 / gaussian.sum()


@pytest.mark.parametrize("sigma", [1, 2, 7, 33, 1000, 2**20])
def test_its_masses_are_bessel_functions(sigma: int) -> None:
    """Mpmath's Bessel functions know nothing of the contour integral that ours are made of."""
    law = Skellam(sigma)
    with mpmath.workprec(264):
        for n in (0, 1, sigma, 3 * sigma, law.reach(45)):
            bessel = mpmath.besseli(n, sigma**2) / mpmath.besseli(0, sigma**2)
            assert abs(law.exactly(n, 200) / bessel - 1) < mpmath.mpf(2) ** -200


@pytest.mark.parametrize("sigma", [1, 7, 1000])
def test_less_than_is_said_lies_beyond_its_reach(sigma: int) -> None:
    reach = Skellam(sigma).reach(12)
    tail = ive(np.arange(reach, reach + 20 * sigma + 100), float(sigma**2)).sum()
    assert 0 < tail <= np.exp(-12)


def log_masses(variance: int) -> NDArray[np.float64]:
    """Logarithms of the masses of 0, 1, …, from mpmath's Bessel functions."""
    with mpmath.workprec(120):
        mass = [mpmath.besseli(n, variance) for n in range(60 * round(variance**0.5) + 340)]
        whole = mass[0] + 2 * mpmath.fsum(mass[1:])
        return np.array([float(mpmath.log(one / whole)) for one in mass])


def moved(log: NDArray[np.float64], shift: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log masses of the law and of the law moved by so much, at the same places."""
    n = np.arange(-len(log) + 40, len(log) - 39)
    return log[np.abs(n)], log[np.abs(n - shift)]


def divergence(p: NDArray[np.float64], q: NDArray[np.float64], order: int) -> float:
    return float(np.logaddexp.reduce(order * p - (order - 1) * q)) / (order - 1)


@pytest.mark.parametrize("variance", [4, 9, 100, 400])
def test_a_shift_diverges_no_more_than_a_gaussian_of_the_variance_that_is_counted(
    variance: int,
) -> None:
    """Rényi divergences of whole order, from the masses, beside k²·α/(2·(σ² − 9/4))."""
    log = log_masses(variance)
    for shift in (1, 2, 5, 30):
        without, with_ = moved(log, shift)
        for order in (2, 3, 8, 63):
            found = divergence(with_, without, order)
            assert found <= order * shift**2 / (2 * (variance - 2.25))
            if variance >= 100 and shift == 1 and order == 2:  # the bound is near, not far above
                assert found > 0.95 * order * shift**2 / (2 * (variance - 2.25))


@pytest.mark.parametrize("variance", [4, 100])
@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_a_sampled_shift_diverges_no_more_than_a_sampled_gaussian_and_less_for_adding(
    variance: int, rate: float
) -> None:
    """Both ways round, at whole orders: the factor 3 of a bound for any mechanism is not needed."""
    log = log_masses(variance)
    for shift in (1, 3, 10):
        without, with_ = moved(log, shift)
        mixed = np.logaddexp(math.log1p(-rate) + without, math.log(rate) + with_)
        gaussian = divergences(GaussianEvent(rate, math.sqrt(variance - 2.25) / shift))
        for order in (2, 3, 8, 63):
            removing = divergence(mixed, without, order)
            assert divergence(without, mixed, order) <= removing * (1 + 1e-9)
            assert removing <= float(gaussian[order == ORDERS][0])
