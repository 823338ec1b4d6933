"""The noise-to-signal ratio that is read off noisy sums is the one that they were made with."""

import numpy as np
import pytest

from hortus.privacy.gradients.signal_energy import Energy

SIZE = 20_000


def seen(signal: float, deviation: float, steps: int) -> Energy:
    """Adds up steps of a signal of some norm under noise."""
    generator = np.random.default_rng(3)
    energy = Energy()
    for _ in range(steps):
        direction = generator.normal(size=SIZE)
        gradient = signal * direction / np.linalg.norm(direction)
        energy += Energy.of(gradient + generator.normal(0, deviation, SIZE), deviation)
    return energy


@pytest.mark.parametrize("ratio", [0.1, 1.0, 3.0])
def test_the_ratio_is_found_again(ratio: float) -> None:
    deviation = 0.01
    signal = deviation * np.sqrt(SIZE) / ratio
    assert seen(signal, deviation, 8).noise_to_signal == pytest.approx(ratio, rel=0.15)


def test_a_signal_that_is_lost_in_the_noise_gives_the_least_ratio_it_may_have() -> None:
    found = seen(0.0, 0.01, 8).noise_to_signal
    # Two standard deviations of 8 steps' energy: 2·√(8·2/d) of one step's, of 8.
    assert found == pytest.approx(np.sqrt(8 / (2 * np.sqrt(8 * 2 / SIZE))), rel=0.3)


def test_sums_without_noise_have_no_ratio() -> None:
    assert seen(1.0, 0.0, 2).noise_to_signal is None
