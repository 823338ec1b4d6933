"""Yogi is the published formula, to the last digits of float64."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from hortus.strategies.optimizers.yogi import Yogi

RATE, FIRST, SECOND, EPS = 0.1, 0.7, 0.8, 1e-2
Vector = NDArray[np.float64]


def gradients(count: int) -> list[Vector]:
    """Large and small ones in turns, some of them 0: v has to move both ways, and to stay."""
    drawn = np.random.default_rng(5).normal(size=(count, 6))
    return [g * 10.0 ** (-(i % 4)) * (i % 3 != np.arange(6) % 3) for i, g in enumerate(drawn)]


def formula(start: Vector, steps: list[Vector]) -> Vector:
    """Reddi et al. (2021), Algorithm 2, FedYogi, with Δ = −g: one coordinate at a time, one line a line."""
    x, m, v = start.copy(), np.zeros_like(start), np.full_like(start, EPS**2)
    for gradient in steps:
        for i, delta in enumerate(-gradient):
            m[i] = FIRST * m[i] + (1 - FIRST) * delta
            v[i] = v[i] - (1 - SECOND) * delta**2 * np.sign(v[i] - delta**2)
            x[i] = x[i] + RATE * m[i] / (np.sqrt(v[i]) + EPS)
    return x


def stepped(start: Vector, steps: list[Vector]) -> tuple[Vector, torch.optim.Optimizer]:
    kind = Yogi(learning_rate=RATE, betas=(FIRST, SECOND), eps=EPS)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = kind.build([parameter])
    for gradient in steps:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    return parameter.detach().numpy(), optimizer


def test_it_is_the_formula_in_float64() -> None:
    start, steps = np.arange(6.0) - 2, gradients(40)
    found, optimizer = stepped(start, steps)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, formula(start, steps), rtol=1e-12)
    adam = torch.nn.Parameter(torch.from_numpy(start.copy()))
    other = torch.optim.Adam([adam], lr=RATE, betas=(FIRST, SECOND), eps=EPS)
    for gradient in steps:
        adam.grad = torch.from_numpy(gradient)
        other.step()
    assert np.abs(adam.detach().numpy() - found).max() > 0.01, "the formula tells the two apart"
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_the_second_moment_forgets_no_faster_than_gradients_add_to_it() -> None:
    """After a large gradient Adam's v decays by a factor each step; Yogi's stays while gradients are small."""
    large, small = np.full(1, 10.0), np.full(1, 1e-3)
    _, optimizer = stepped(np.zeros(1), [large, *[small] * 30])
    (state,) = optimizer.state.values()
    after_one = EPS**2 + (1 - SECOND) * 100
    assert state["v"].item() == pytest.approx(after_one - 30 * (1 - SECOND) * 1e-6)


def test_a_parameter_without_a_gradient_stays() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))]
    optimizer = Yogi().build(parameters)
    parameters[0].grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(parameters[0], torch.ones(2))
    assert torch.equal(parameters[1], torch.ones(2))


@pytest.mark.parametrize(
    "fields",
    [
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"betas": (0.9,)},
        {"eps": 0.0},
        {"learning_rate": float("nan")},
        {"options": {"momentum": 0.9}},
    ],
    ids=str,
)
def test_numbers_that_make_no_step_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Yogi(**fields)
