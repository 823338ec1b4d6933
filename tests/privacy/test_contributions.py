"""The three forms of per-unit gradients: what their norms promise, and that they agree."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.privacy.contributions import Contribution, Dense, Factored, Rows, combined

UNIT = torch.tensor([1, 0, 1, 2])


def factored(scale: float = 1.0) -> Factored:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 4, 3, 5, generator=generator)
    return Factored(scale * left, right[:, :, :4], UNIT, 3)


def rows(*, transposed: bool) -> Rows:
    gradients = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    row = torch.tensor([0, 4, 2, 2])
    return Rows(torch.tensor([0, 0, 1, 2]), row, gradients, 3, 5, transposed)


FORMS: dict[str, Contribution] = {
    "dense": Dense(torch.randn(3, 20, generator=torch.Generator().manual_seed(2))),
    "rows": rows(transposed=False),
    "transposed rows": rows(transposed=True),
    "factored": factored(),
}


@pytest.mark.parametrize("form", FORMS)
def test_norms_and_sums_are_those_of_the_formed_gradients(form: str) -> None:
    contribution = FORMS[form]
    formed = contribution.dense().to(torch.float64)
    assert formed.shape == (3, 20)
    assert torch.allclose(contribution.squared_norms(), formed.square().sum(1), rtol=1e-6)
    total, factors = torch.ones(20, dtype=torch.float64), torch.tensor([0.5, 0.0, 2.0])
    contribution.add_to(total, factors.to(torch.float64))
    assert torch.allclose(total, 1 + factors.to(torch.float64) @ formed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_two_uses_of_a_parameter_are_one_gradient(first: str, second: str) -> None:
    both = combined(FORMS[first], FORMS[second])
    assert torch.equal(both.dense(), FORMS[first].dense() + FORMS[second].dense())


@pytest.mark.parametrize("form", FORMS)
def test_a_unit_that_is_not_finite_adds_nothing_and_says_so(form: str) -> None:
    spoilt: Contribution
    match FORMS[form]:
        case Dense(gradients):
            spoilt = Dense(gradients.clone())
            spoilt.gradients[1, 3] = torch.nan
        case Rows(unit, row, gradients, units, height, transposed):
            spoilt = Rows(unit, row, gradients.clone(), units, height, transposed)
            spoilt.gradients[2] = torch.inf
        case Factored(left, right, unit, units):
            spoilt = Factored(left.clone(), right, unit, units)
            spoilt.left[2] = torch.inf
    assert torch.isfinite(spoilt.squared_norms()).tolist() == [True, False, True]
    whole, without = torch.zeros(2, 20, dtype=torch.float64)
    factors = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    spoilt.add_to(whole, factors)
    FORMS[form].add_to(without, factors)
    assert torch.equal(whole, without)


def exact_square(left: torch.Tensor, right: torch.Tensor) -> Fraction:
    """‖Σₜ leftₜ ⊗ rightₜ‖² of float32 (tokens, …) in rational arithmetic."""
    pairs = [
        [[Fraction(float(a)) * Fraction(float(b)) for b in g] for a in f]
        for f, g in zip(left, right, strict=True)
    ]
    entries = [
        sum(t[i][j] for t in pairs) for i in range(len(left[0])) for j in range(len(right[0]))
    ]
    return sum((entry * entry for entry in entries), start=Fraction(0))


floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(floats, min_size=4, max_size=4), min_size=1, max_size=4), st.data())
def test_a_gradient_that_is_not_formed_is_never_larger_than_its_norm(
    tokens: list[list[float]], data: st.DataObject
) -> None:
    """Tokens that nearly cancel: the Gram sum loses most digits, and the bound makes up for it."""
    values = np.array(tokens, np.float32)
    wobble = np.float32(data.draw(st.sampled_from([0.0, 1e-7, 1e-3])))
    left = torch.from_numpy(np.concatenate([values[:, :2], -values[:, :2] * (1 + wobble)]))
    right = torch.from_numpy(np.concatenate([values[:, 2:], values[:, 2:]]))
    unit = torch.tensor([0])
    claimed = float(Factored(left[None], right[None], unit, 1).squared_norms()[0])
    assert Fraction(claimed) >= exact_square(left, right)


def test_a_float32_norm_would_be_too_small() -> None:
    """Planted: the Gram sum in float32, of tokens that nearly cancel."""
    generator = torch.Generator().manual_seed(2)
    half, other = torch.randn(2, 8, 6, generator=generator)
    left = torch.cat([half, -half * (1 + 1e-4)])
    right = torch.cat([other, other])
    exact = exact_square(left, right)
    gram = float(((left @ left.T) * (right @ right.T)).sum())
    assert Fraction(gram) < exact
    claimed = Factored(left[None], right[None], torch.tensor([0]), 1).squared_norms()
    assert exact <= Fraction(float(claimed[0])) <= exact * Fraction(1.001)
