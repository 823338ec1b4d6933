"""Exposure: by counting, against its definition."""

import math

import numpy as np
import pytest

from hortus.privacy.attacks.exposure import exposure


@pytest.mark.parametrize(
    ("secret", "others", "bits"),
    [
        (0.5, [1.0, 2.0, 3.0], 2.0),  # first of four
        (1.5, [1.0, 2.0, 3.0], 1.0),  # second of four
        (9.0, [1.0, 2.0, 3.0], 0.0),  # last of four
        (1.0, [1.0, 2.0, 3.0], 1.0),  # a tie counts against it
        (math.nan, [1.0, 2.0, 3.0], 0.0),
        (0.5, [math.nan, 2.0, 3.0], 1.0),
    ],
)
def test_it_is_by_how_many_bits_the_secret_is_ahead(
    secret: float, others: list[float], bits: float
) -> None:
    assert exposure(secret, np.array(others)) == bits


def test_a_model_that_knows_nothing_of_it_exposes_a_bit_and_a_half_on_average() -> None:
    generator = np.random.default_rng(0)
    draws = generator.random((2000, 256))
    found = [exposure(row[0], row[1:]) for row in draws]
    assert np.mean(found) == pytest.approx(math.log2(math.e), abs=0.1)
