"""A lower bound on ε from guesses about who was in the data: an audit of the mechanism itself.

Each of m canaries is in the data or not, by a fair coin of its own. Whoever sees what was released
guesses for some of them. Guesses that are right too often refute a claim of (ε, δ)-differential
privacy: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run" (2023).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

from hortus.runtime.errors import UsageError

# Shares of the canaries that are guessed, half of them as present and half as absent. One of these
# is picked after the fact, so each gets its part of the error.
GUESSED_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_LARGEST_EPSILON = 50.0
_PRECISION = 1e-5


@dataclass(frozen=True, slots=True)
class LowerBound:
    """What guesses prove.

    Attributes:
        epsilon: The mechanism is (ε, δ)-differentially private for no smaller ε.
        delta: δ.
        confidence: Probability, over coins and mechanism, that such a statement is true.
        canaries: m.
        guesses: For how many of them a guess was made.
        correct: How many of these were right.
    """

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bounds the probability of this many right guesses under (ε, δ)-differential privacy.

    Steinke et al. (2023), Theorem 5.2 with Corollary 5.4. With W ~ Binomial(r, e^ε/(1 + e^ε)), at
    least v of r guesses are right with probability at most

        P[W ≥ v] + 2mδ · max over i in 1 … v of P[v > W ≥ v − i] / i.

    Args:
        canaries: m, each in the data by a fair coin; one canary's coin is a unit added or removed.
        guesses: r ≤ m; the choice for which canaries to guess may depend on everything released.
        correct: v ≤ r.
        epsilon: ε, not negative.
        delta: δ in [0, 1].

    Raises:
        UsageError: An argument is out of range.
    """
    if not (0 <= correct <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        raise UsageError(
            f"no such audit: {correct} of {guesses} guesses on {canaries} canaries are right, "
            f"ε = {epsilon:g}, δ = {delta:g}"
        )
    below = np.arange(correct + 1) if delta > 0 else np.arange(1)  # i
    tails = binom.sf(correct - below - 1, guesses, expit(epsilon))  # P[W ≥ v − i]
    gain = ((tails[1:] - tails[0]) / below[1:]).max(initial=0.0)
    return min(1.0, float(tails[0] + 2 * canaries * delta * gain))


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> LowerBound:
    """Returns the largest ε that this many right guesses refute; 0 if they refute none.

    Args:
        canaries: m.
        guesses: r ≤ m, fixed before anything was seen.
        correct: v ≤ r.
        delta: δ in [0, 1].
        confidence: One minus the probability that the bound is above the true ε.

    Raises:
        UsageError: An argument is out of range.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence lies between 0 and 1, not at {confidence:g}")

    def excess(epsilon: float) -> float:
        return p_value(canaries, guesses, correct, epsilon, delta) - (1 - confidence)

    if excess(0.0) > 0:
        refuted = 0.0
    elif excess(_LARGEST_EPSILON) <= 0:
        refuted = _LARGEST_EPSILON
    else:
        root = float(brentq(excess, 0.0, _LARGEST_EPSILON, xtol=_PRECISION))
        refuted = max(0.0, root - 2 * _PRECISION)
    return LowerBound(refuted, delta, confidence, canaries, guesses, correct)


def audit_scores(
    scores: NDArray[np.float64], present: NDArray[np.bool_], delta: float, confidence: float
) -> LowerBound:
    """Guesses from scores, and returns the best bound over how many guesses are made.

    Canaries with the highest scores are taken for present, those with the lowest for absent, and
    for the rest there is no guess. Each number of guesses is held to a share of the error
    (Bonferroni), so the best bound has the confidence asked for.

    Args:
        scores: float64[m], higher for canaries that seem to be in the data. They may depend on
            everything but the coins.
        present: bool[m], the coins.
        delta: δ in [0, 1].
        confidence: Of the bound that is returned.

    Raises:
        UsageError: An argument is out of range.
    """
    order = np.argsort(scores, kind="stable")
    each = 1 - (1 - confidence) / len(GUESSED_SHARES)
    bounds = []
    for share in GUESSED_SHARES:
        half = int(len(scores) * share) // 2
        right = int(present[order[len(order) - half :]].sum() + (~present[order[:half]]).sum())
        bounds.append(epsilon_lower_bound(len(scores), 2 * half, right, delta, each))
    best = max(bounds, key=lambda bound: bound.epsilon)
    return LowerBound(best.epsilon, delta, confidence, best.canaries, best.guesses, best.correct)
