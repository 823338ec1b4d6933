"""Membership inference: how well an attacker tells who was in the data, from scores of trained models.

The likelihood-ratio attack is that of Carlini et al., "Membership inference attacks from first
principles" (2022), Algorithm 1, with few shadow models: each trained model is attacked with all
others as its shadow models, and one variance is estimated for all records (their Section VI).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A variance is never taken to be smaller than this: two equal confidences do not prove certainty.
_LEAST_VARIANCE = 1e-12


def logit_confidence(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns log(p/(1 − p)) of the probability p that a model gives the label, from −log p.

    Such confidences are close to normal over models (Carlini et al. 2022, Section IV.C).
    """
    positive = np.maximum(losses, 1e-30)
    logits: NDArray[np.float64] = -positive - np.log(-np.expm1(-positive))
    return logits


def likelihood_ratios(
    confidences: NDArray[np.float64], present: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns for each model and record how much likelier its confidence is if the record was in.

    Args:
        confidences: float64 (models, records).
        present: bool (models, records), whether the model was trained on the record.

    Returns:
        float64 (models, records), logarithms; the other models alone say what is usual.
    """
    scores = np.empty_like(confidences)
    for model in range(len(confidences)):
        others = np.arange(len(confidences)) != model
        inside = _gaussian(confidences[others], present[others])
        outside = _gaussian(confidences[others], ~present[others])
        scores[model] = inside.log_density(confidences[model]) - outside.log_density(
            confidences[model]
        )
    return scores


@dataclass(frozen=True, slots=True)
class _Gaussian:
    """A normal law for each record, of one variance: means float64 (records,)."""

    means: NDArray[np.float64]
    variance: float

    def log_density(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns log densities up to a constant that all laws share, float64 (records,)."""
        density: NDArray[np.float64] = (
            -((values - self.means) ** 2) / (2 * self.variance) - np.log(self.variance) / 2
        )
        return density


def _gaussian(values: NDArray[np.float64], used: NDArray[np.bool_]) -> _Gaussian:
    """Fits the laws to the values that are used; a record without any gets the mean of all."""
    counts = used.sum(0)
    overall = values[used].mean() if used.any() else 0.0
    sums = np.where(used, values, 0.0).sum(0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    squares = np.where(used, (values - means) ** 2, 0.0).sum()
    freedom = np.maximum(counts - 1, 0).sum()
    variance = squares / freedom if freedom else 1.0
    return _Gaussian(means, max(float(variance), _LEAST_VARIANCE))


@dataclass(frozen=True, slots=True)
class Roc:
    """True positive rate against false positive rate, as the threshold falls.

    Attributes:
        false_positive: float64 (points,), ascending from 0 to 1.
        true_positive: float64 (points,), ascending from 0 to 1.
    """

    false_positive: NDArray[np.float64]
    true_positive: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.float64], present: NDArray[np.bool_]) -> "Roc":
        """Returns the curve of scores, float64 (n,); equal scores cannot be distinguished."""
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
        hits = np.cumsum(present[order])[ends]
        false = ends + 1 - hits
        return cls(
            np.concatenate([[0.0], false / max(1, (~present).sum())]),
            np.concatenate([[0.0], hits / max(1, present.sum())]),
        )

    def at(self, false_positive_rate: float) -> float:
        """Returns the true positive rate of the best threshold with at most this many false ones."""
        allowed = self.false_positive <= false_positive_rate + 1e-12
        return float(self.true_positive[allowed].max())

    @property
    def area(self) -> float:
        """Area under the curve; ½ for guessing."""
        return float(np.trapezoid(self.true_positive, self.false_positive))
