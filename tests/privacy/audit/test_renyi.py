"""The auditor's Rényi divergences: the truth without sampling, Opacus's with it, never below ε."""

import math

import numpy as np
import pytest
from opacus.accountants.analysis.rdp import compute_rdp

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.recount import recount
from hortus.privacy.audit.renyi import ORDERS, divergences, renyi_epsilon

DELTA = 1e-5


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("noise", [0.3, 0.8, 2.0, 40.0])
def test_they_are_what_opacus_computes_by_series(rate: float, noise: float) -> None:
    ours = divergences(GaussianEvent(rate, noise))
    theirs = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=list(map(float, ORDERS)))
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-12)


def test_without_sampling_they_are_the_gaussians() -> None:
    assert np.array_equal(divergences(GaussianEvent(1.0, 2.0)), ORDERS / 8)


@pytest.mark.parametrize("noise", [1e-3, 0.02])
def test_hardly_any_noise_costs_more_than_anybody_would_spend(noise: float) -> None:
    assert renyi_epsilon({GaussianEvent(0.1, noise): 1}, DELTA) > 200


def test_the_bound_is_never_below_epsilon_and_of_one_gaussian_close() -> None:
    history = {GaussianEvent(0.05, 1.2): 200, GaussianEvent(1.0, 30.0): 5}
    assert recount(history, DELTA) <= renyi_epsilon(history, DELTA) <= 1.2 * recount(history, DELTA)
    assert renyi_epsilon({}, DELTA) == 0.0 or math.isclose(
        renyi_epsilon({}, DELTA), 0, abs_tol=0.03
    )
