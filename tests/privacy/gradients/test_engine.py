"""The clipped sum against plain autograd, one record at a time, and what each planted bug would do."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.learning.loader import Encoded
from hortus.planning.plan_file import make_plan
from hortus.privacy.gradients.clipping.base import ClippingAt
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.clipping.per_layer import PerLayerClipping
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Plan
from tests.helpers.labelled import labelled

TEXTS = ("the sky is blue", "grass is green", "a red rose", "ice", "leaf leaf leaf leaf leaf tree")
C = 0.05


@pytest.fixture
def workbench(plan: Plan, tiny_model: object) -> Workbench:
    bench = Workbench(plan, Path(plan.model))
    torch.manual_seed(1)
    with torch.no_grad():  # away from B = 0 and a zero head, where most gradients vanish
        for parameter in bench.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return bench


@pytest.fixture
def encoded(workbench: Workbench) -> Encoded:
    labels = np.arange(len(TEXTS)) % 3
    return workbench.loader.encode(labelled(TEXTS, labels))


def one_by_one(workbench: Workbench, encoded: Encoded) -> NDArray[np.float64]:
    """Per-record gradients by ordinary autograd, float64 (records, d)."""
    rows = []
    parameters = [p for _, p in sorted(workbench.model.named_parameters()) if p.requires_grad]
    for index in range(len(encoded)):
        (batch,) = workbench.loader.batches(encoded, np.array([index]), 1)
        loss = batch.losses(workbench.model).sum()
        gradient = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([g.reshape(-1) for g in gradient]).double().numpy())
    return np.stack(rows)


def clipped(rows: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1, bound / norms)).sum(0)


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
@pytest.mark.parametrize("bound", [C, 100.0, np.inf])
def test_the_sum_is_that_of_single_records(
    workbench: Workbench, encoded: Encoded, micro_batch: int, bound: float
) -> None:
    batches = workbench.loader.batches(encoded, np.arange(len(encoded)), micro_batch)
    total = workbench.gradients.clipped_sum(batches, FlatClipping().at(bound)).total
    reference = clipped(one_by_one(workbench, encoded), bound)
    assert total.dtype == np.float64
    assert np.allclose(total, reference, rtol=2e-4, atol=1e-6)


def test_every_record_is_within_the_bound_in_exact_arithmetic(
    workbench: Workbench, encoded: Encoded
) -> None:
    for index in range(len(encoded)):
        batch = workbench.loader.batches(encoded, np.array([index]), 1)
        alone = workbench.gradients.clipped_sum(batch, FlatClipping().at(C)).total
        # Fractions, not floats: the bound is on the real vector that the floats stand for.
        squared = sum(Fraction(float(x)) ** 2 for x in alone)
        assert squared <= Fraction(C) ** 2


def test_the_head_counts_in_the_norm(workbench: Workbench, encoded: Encoded) -> None:
    """Leaving it out would let a record through with more than C."""
    rows = one_by_one(workbench, encoded)
    names = [n for n, p in sorted(workbench.model.named_parameters()) if p.requires_grad]
    sizes = [p.numel() for _, p in sorted(workbench.model.named_parameters()) if p.requires_grad]
    head = np.repeat(["head" in name for name in names], sizes)
    without = rows * np.minimum(1, C / np.linalg.norm(rows[:, ~head], axis=1, keepdims=True))
    assert np.linalg.norm(without, axis=1).max() > C * 1.01
    batch = workbench.loader.batches(encoded, np.array([0]), 1)
    assert np.linalg.norm(workbench.gradients.clipped_sum(batch, FlatClipping().at(C)).total) <= C


def test_no_records_give_zeros(workbench: Workbench) -> None:
    total = workbench.gradients.clipped_sum([], FlatClipping().at(C)).total
    assert total.shape == (workbench.space.dimension,)
    assert not total.any()


def test_a_record_with_an_overflowing_gradient_adds_nothing(
    workbench: Workbench, encoded: Encoded
) -> None:
    class Overflowing:
        def __init__(self, inner: object) -> None:
            self.inner = inner
            self.units = inner.units  # type: ignore[attr-defined]

        def losses(self, model: torch.nn.Module) -> torch.Tensor:
            losses = self.inner.losses(model)  # type: ignore[attr-defined]
            return losses * torch.tensor([float("inf")] + [1.0] * (len(losses) - 1))

    batch = workbench.loader.batch(encoded, np.arange(3), np.arange(3))
    total = workbench.gradients.clipped_sum([Overflowing(batch)], FlatClipping().at(C)).total
    assert np.isfinite(total).all()
    assert np.linalg.norm(total) <= 2 * C


UNITS = np.array([0, 1, 0, 2, 1])


def in_units(encoded: Encoded) -> Encoded:
    return replace(encoded, units=UNITS)


def unit_means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each unit's gradient: the mean of its records'."""
    return np.stack([rows[unit == UNITS].mean(0) for unit in range(3)])


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
@pytest.mark.parametrize("bound", [C, 100.0, np.inf])
def test_a_units_records_give_one_gradient_clipped_once(
    workbench: Workbench, encoded: Encoded, micro_batch: int, bound: float
) -> None:
    batches = workbench.loader.batches(in_units(encoded), np.arange(len(encoded)), micro_batch)
    total = workbench.gradients.clipped_sum(batches, FlatClipping().at(bound)).total
    rows = one_by_one(workbench, encoded)
    assert np.allclose(total, clipped(unit_means(rows), bound), rtol=2e-4, atol=1e-6)


def test_clipping_records_one_by_one_would_be_seen(workbench: Workbench, encoded: Encoded) -> None:
    """Planted: each record is a unit to the engine, so a unit's two records may add up to 2C."""
    (batch,) = workbench.loader.batches(in_units(encoded), np.array([0, 0]), 5)
    assert np.linalg.norm(workbench.gradients.clipped_sum([batch], FlatClipping().at(C)).total) <= C
    apart = replace(batch, units=torch.arange(2))
    assert (
        np.linalg.norm(workbench.gradients.clipped_sum([apart], FlatClipping().at(C)).total)
        > 1.9 * C
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.floats(1e-3, 10))
def test_a_sum_over_any_records_is_bounded_by_their_number(
    plan_bench: tuple[Workbench, Encoded], indices: list[int], bound: float
) -> None:
    workbench, encoded = plan_bench
    batches = workbench.loader.batches(encoded, np.array(indices), 3)
    total = workbench.gradients.clipped_sum(batches, FlatClipping().at(bound)).total
    assert np.linalg.norm(total) <= len(indices) * bound * (1 + 1e-12)


@pytest.fixture(scope="module")
def plan_bench(tiny_model: object) -> tuple[Workbench, Encoded]:
    plan = make_plan(
        {
            "name": "gradients",
            "model": str(tiny_model),
            "task": {"labels": ["warm", "fresh", "cool"]},
            "training": {"rounds": 1, "sampling_rate": 0.5, "nominal_units": 10},
            "privacy": {"noise_multiplier": 1.0},
        }
    )
    bench = Workbench(plan, Path(plan.model))
    return bench, bench.loader.encode(labelled(TEXTS, np.arange(len(TEXTS)) % 3))


@pytest.mark.parametrize(
    "clipping", [FlatClipping().at(C), PerLayerClipping().at(C), FlatClipping().at(np.inf)]
)
def test_each_units_own_clipped_gradient_is_its_part_of_the_sum(
    workbench: Workbench, encoded: Encoded, clipping: ClippingAt
) -> None:
    everybody = np.arange(len(encoded))
    batch = workbench.loader.batch(encoded, everybody, everybody)
    each = workbench.gradients.clipped_each(batch, clipping)
    together = workbench.gradients.clipped_sum([batch], clipping)
    assert np.allclose(sum(one.total for one in each), together.total, rtol=1e-4, atol=1e-7)
    assert np.allclose(np.hstack([one.norms for one in each]), together.norms, rtol=1e-6)
    for number, one in enumerate(each):
        index = np.sort(batch.index)[number]
        alone = workbench.loader.batches(encoded, np.array([index]), 1)
        own = workbench.gradients.clipped_sum(alone, clipping).total
        assert np.allclose(one.total, own, rtol=2e-4, atol=1e-6)
