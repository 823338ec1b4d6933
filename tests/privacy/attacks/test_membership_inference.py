import math

import numpy as np
import pytest
from scipy.stats import norm

from hortus.privacy.attacks.membership_inference import Roc, likelihood_ratios, logit_confidence


def test_the_logit_of_a_loss_is_that_of_its_probability() -> None:
    probabilities = np.array([0.5, 0.9, 1e-6])
    expected = np.log(probabilities / (1 - probabilities))
    assert logit_confidence(-np.log(probabilities)) == pytest.approx(expected)
    assert np.isfinite(logit_confidence(np.array([0.0, 800.0]))).all()


def test_the_curve_of_known_scores() -> None:
    roc = Roc.of(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert roc.false_positive.tolist() == [0, 0, 0.5, 0.5, 1]
    assert roc.true_positive.tolist() == [0, 0.5, 0.5, 1, 1]
    assert roc.area == 0.75
    assert roc.at(0.01) == 0.5
    assert roc.at(0.5) == 1


def test_equal_scores_are_worth_a_guess() -> None:
    roc = Roc.of(np.zeros(6), np.array([True, False] * 3))
    assert roc.area == 0.5
    assert roc.at(0.9) == 0


def test_the_likelihood_ratio_reaches_what_normal_confidences_allow() -> None:
    """Confidences N(b, 1) outside and N(b + 2, 1) inside, b each record's own and large: without
    shadow models nothing could be told, with many the best test is that of N(0, 1) and N(2, 1)."""
    generator = np.random.default_rng(5)
    models, records = 16, 2000
    present = generator.random((models, records)) < 0.5
    base = 10 * generator.standard_normal(records)
    confidences = base + 2 * present + generator.standard_normal((models, records))
    scores = likelihood_ratios(confidences, present)
    roc = Roc.of(scores.ravel(), present.ravel())
    best = norm.cdf(2 / math.sqrt(2))
    assert best - 0.03 < roc.area < best
    assert Roc.of(confidences.ravel(), present.ravel()).area < 0.6


def test_a_record_that_was_always_or_never_in_still_has_a_score() -> None:
    present = np.array([[True, False, True], [True, False, False], [True, False, True]])
    scores = likelihood_ratios(np.arange(9.0).reshape(3, 3), present)
    assert np.isfinite(scores).all()


def test_noise_is_told_apart_by_nobody() -> None:
    generator = np.random.default_rng(6)
    present = generator.random((8, 1000)) < 0.5
    scores = likelihood_ratios(generator.standard_normal((8, 1000)), present)
    assert abs(Roc.of(scores.ravel(), present.ravel()).area - 0.5) < 0.03
