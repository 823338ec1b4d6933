"""The audit's bound against mechanisms whose ε is known, and against the engine itself.

Seeds are fixed. Where a test counts how often a 95 % bound is wrong, it says how unlikely more than
it allows would be for a correct one.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import nn

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.attacks.one_run import (
    audit_scores,
    epsilon_lower_bound,
    p_value,
)
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients, _Clipper
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.noise import discrete_gaussian
from hortus.privacy.noise.mechanism import Mechanism
from hortus.privacy.noise.randomness import Stream, UnsafeSeededRandomness
from hortus.runtime.errors import UsageError

TRIALS = 200
# More than this many wrong 95 % bounds in 200 have probability below 1e-6.
WRONG_AT_MOST = int(binom.isf(1e-6, TRIALS, 0.05))


@pytest.mark.parametrize("true", [0.0, 0.5, 1.0, 3.0])
def test_randomised_response_is_bounded_below_its_epsilon_and_close_to_it(true: float) -> None:
    """Each bit is told truly with probability e^ε/(1 + e^ε): the bound of Corollary 5.4 is exact."""
    truthful = 1 / (1 + math.exp(-true))
    correct = np.random.default_rng(1).binomial(5000, truthful, TRIALS)
    bounds = np.array([epsilon_lower_bound(5000, 5000, int(v), 0, 0.95).epsilon for v in correct])
    assert (bounds > true).sum() <= WRONG_AT_MOST
    assert bounds.mean() > true - 0.3


def test_choosing_among_numbers_of_guesses_keeps_the_confidence() -> None:
    generator = np.random.default_rng(2)
    wrong = 0
    for _ in range(TRIALS):
        present = generator.random(200) < 0.5
        told = np.where(generator.random(200) < 1 / (1 + math.exp(-0.5)), present, ~present)
        scores = told + generator.random(200) / 2
        wrong += audit_scores(scores, present, 0.0, 0.95).epsilon > 0.5
    assert wrong <= WRONG_AT_MOST


def test_a_mechanism_that_leaks_with_probability_delta_is_within_its_delta() -> None:
    """(0, δ)-private: each bit is told in the clear with probability δ, else nothing is told."""
    generator, delta, wrong = np.random.default_rng(3), 0.02, 0
    for _ in range(TRIALS):
        present = generator.random(500) < 0.5
        leaked = generator.random(500) < delta
        scores = np.where(leaked, np.where(present, 1.0, -1.0), generator.random(500) / 2)
        wrong += audit_scores(scores, present, delta, 0.95).epsilon > 0
    assert wrong <= WRONG_AT_MOST


def test_the_p_value_is_the_formula_of_the_paper() -> None:
    m, r, v, claimed, delta = 40, 12, 9, 0.7, 1e-3
    q = math.exp(claimed) / (1 + math.exp(claimed))
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    worst = max(sum(mass[v - i : v]) / i for i in range(1, v + 1))
    assert p_value(m, r, v, claimed, delta) == pytest.approx(
        sum(mass[v:]) + 2 * m * delta * worst, rel=1e-12
    )
    assert p_value(m, r, v, claimed, 1.0) == 1


def test_more_is_proven_by_more_right_guesses_and_less_at_a_larger_delta() -> None:
    bounds = [epsilon_lower_bound(1000, 100, v, 1e-5, 0.95).epsilon for v in range(50, 101)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0
    assert epsilon_lower_bound(1000, 100, 95, 1e-3, 0.95).epsilon < bounds[45]
    assert epsilon_lower_bound(1000, 100, 95, 1e-5, 0.99).epsilon < bounds[45]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((10, 11, 5, 0.0, 0.95), "no such audit"), ((10, 5, 5, 0.0, 1.0), "confidence")],
)
def test_impossible_audits_are_refused(
    arguments: tuple[int, int, int, float, float], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        epsilon_lower_bound(*arguments)


class Lines(nn.Module):
    """A model whose gradient for a unit is the unit's row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.adapter = nn.Linear(width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapter(x).squeeze(1)


class Rows:
    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        self.units = torch.arange(len(rows))

    def losses(self, model: nn.Module) -> torch.Tensor:
        losses: torch.Tensor = model(self.rows)
        return losses


CANARIES, STEPS, RATE, DELTA = 2000, 3, 0.5, 1e-6


def engine_scores(
    this: Mechanism, present: NDArray[np.bool_], randomness: UnsafeSeededRandomness
) -> NDArray[np.float64]:
    """Worst-case canaries through sampling, clipping, rounding and noise: each has a coordinate of
    its own, with a gradient far beyond C. Its score is what is released there."""
    engine, scores = PerUnitGradients(Lines(CANARIES)), np.zeros(CANARIES)
    members = np.flatnonzero(present)
    for step in range(STEPS):
        stream = randomness.stream("sample", step, 0, 0)
        chosen = members[sample_records(np.arange(len(members)), RATE, None, stream)]
        rows = torch.zeros(len(chosen), CANARIES)
        rows[torch.arange(len(chosen)), torch.from_numpy(chosen)] = 50.0
        clipping = FlatClipping().at(this.clipping_norm)
        total = engine.clipped_sum([Rows(rows)], clipping, this.grid).total
        released = this.release(total, len(chosen), randomness.stream("noise", step, 0, 0))
        scores += this.decode(released.astype(np.uint32))
    return scores


def engine_audit(noise_multiplier: float) -> tuple[float, float]:
    """Returns the empirical lower bound and the claim."""
    this = Mechanism.design(1.0, noise_multiplier, CANARIES, 1, cohort=2, max_batch=CANARIES)
    present = np.random.default_rng(4).random(CANARIES) < 0.5
    scores = engine_scores(this, present, UnsafeSeededRandomness(9, "audit"))
    claim = epsilon({GaussianEvent(RATE, this.effective_noise_multiplier): STEPS}, DELTA)
    return audit_scores(scores, present, DELTA, 0.95).epsilon, claim


@pytest.mark.parametrize("noise_multiplier", [0.6, 1.0, 2.0])
def test_the_engine_leaks_something_and_no_more_than_is_claimed(noise_multiplier: float) -> None:
    """A 95 % bound, for fixed seeds; measured: a seventh to a quarter of the claim."""
    found, claim = engine_audit(noise_multiplier)
    assert claim / 8 < found <= claim


def quiet(sigma: int, size: int, stream: Stream) -> NDArray[np.int64]:
    return np.zeros(size, np.int64)


def fainter(real: Callable[[int, int, Stream], NDArray[np.int64]]) -> Callable[..., Any]:
    return lambda sigma, size, stream: real(max(1, sigma // 12), size, stream)


@pytest.mark.parametrize("bug", ["no noise", "a twelfth of the noise", "no clipping"])
def test_an_engine_with_a_planted_bug_is_exposed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = discrete_gaussian.sample
    if bug == "no noise":
        monkeypatch.setattr(discrete_gaussian, "sample", quiet)
    elif bug == "no clipping":
        monkeypatch.setattr(FlatClipping, "factors", lambda _, norms, bound: torch.ones_like(norms))
        monkeypatch.setattr(_Clipper, "_check", lambda *_: None)
        monkeypatch.setattr(Mechanism, "_check_norm", lambda *_: None)
    else:
        monkeypatch.setattr(discrete_gaussian, "sample", fainter(real))
    found, claim = engine_audit(4.0)
    assert found > claim
