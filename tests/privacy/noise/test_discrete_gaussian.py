"""The discrete Gaussian against its exact mass function.

Every χ² test fails for a correct sampler with probability 1e-6 over the choice of its seed; the
seeds are fixed, so a test that passes goes on passing.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from hortus.privacy.noise.discrete_gaussian import sample
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from tests.helpers.chi_square import p_value

FALSE_FAILURE = 1e-6
SIZE = 400_000


@pytest.mark.parametrize("sigma", [1, 2, 7, 15, 16, 31, 32, 47, 1000, 2**17 + 1])
def test_the_sampler_follows_the_mass_function(sigma: int) -> None:
    def mass(n: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-(n**2) / (2.0 * sigma**2))

    drawn = sample(sigma, SIZE, UnsafeSeededRandomness(11, "test").stream("chi", sigma))
    assert p_value(drawn, sigma, mass) > FALSE_FAILURE
