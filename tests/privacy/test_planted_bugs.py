"""A claim must be falsifiable: each bug that would break it is planted, and a named check sees it.

Every check runs the real code. Those that judge random numbers use fixed seeds, and would fail for
correct code under a fresh seed with probability below `FALSE_FAILURE`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from torch import nn

import hortus.client.trainer
import hortus.planning.prepare
from hortus.client.trainer import Trainer, untimed
from hortus.learning.loader import Encoded
from hortus.planning.plan_file import make_plan
from hortus.planning.prepare import prepare
from hortus.privacy.accounting.accountant import calibrate_noise_multiplier, epsilon_prv
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import FINE_GRID, ClippedSum, PerUnitGradients
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise import discrete_gaussian
from hortus.privacy.noise.mechanism import Mechanism
from hortus.privacy.noise.randomness import SessionRandomness, Stream, UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Agreement, Plan
from hortus.runtime.errors import HortusError
from tests.helpers.labelled import labelled

FALSE_FAILURE = 1e-6
C = 1.0
CAP = 2
Patch = pytest.MonkeyPatch
Check = Callable[["Pipeline"], None]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A site's real trainer on the tiny model: ten patients with five records each."""

    plan: Plan
    encoding: PrivateStep
    workbench: Workbench
    records: Encoded

    def trainer(self) -> Trainer:
        randomness = UnsafeSeededRandomness(5, "ash")
        return Trainer(self.encoding, self.workbench, self.records, randomness, untimed)

    @property
    def adapter(self) -> NDArray[np.float32]:
        return self.workbench.space.read(self.workbench.model)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> Pipeline:
    plan = make_plan(
        {
            "name": "bugs",
            "model": str(tiny_model),
            "task": {"labels": ["warm", "fresh", "cool"]},
            "adapter": {"rank": 2},
            "training": {
                "rounds": 2,
                "steps_per_round": 5,
                "sampling_rate": 0.5,
                "nominal_units": 10,
            },
            "privacy": {
                "noise_multiplier": 1.3,
                "unit": "patient",
                "max_records_per_unit": CAP,
            },
            "cohort": {"minimum": 4},
        }
    )
    contract, path = prepare(plan, Path())
    workbench = Workbench(plan, path)
    texts = tuple(f"the {word} is red" for word in ("sky", "sea", "rose", "ice", "leaf") * 10)
    patients = tuple(f"p{i // 5}" for i in range(50))
    records = labelled(texts, np.arange(50) % 3, (), patients)
    encoding = PrivateStep.of(contract, workbench.space.dimension, cohort=4)
    return Pipeline(plan, encoding, workbench, workbench.loader.encode(records))


class Linear(nn.Module):
    """A model whose loss has the very gradient that the batch asks for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.adapter = nn.Linear(width, 1, bias=False)
        self.head = nn.Linear(width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[1] // 2
        return (self.adapter(x[:, :half]) + self.head(x[:, half:])).squeeze(1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Units whose gradients are the rows, float32 (units, 2·width)."""

    rows: torch.Tensor

    @property
    def units(self) -> torch.Tensor:
        return torch.arange(len(self.rows))

    def losses(self, model: nn.Module) -> torch.Tensor:
        losses: torch.Tensor = model(self.rows)
        return losses


def clipped(rows: torch.Tensor) -> NDArray[np.float64]:
    engine = PerUnitGradients(Linear(rows.shape[1] // 2))
    return engine.clipped_sum([Wanted(rows)], FlatClipping().at(C)).total


def adversarial() -> list[torch.Tensor]:
    """Gradients whose squares, added in float32, lose what is small or round it down.

    Large coordinates first, so that every partial sum is large when the small ones come; then
    random ones, half of which any rounding takes down.
    """
    shy = torch.full((8192,), 2.0**-12)
    shy[::2] = 1.0
    generator = torch.Generator().manual_seed(3)
    return [shy, *(3 * torch.randn(4096, generator=generator) for _ in range(20))]


# What is true of the code as it is.


def no_unit_exceeds_the_bound_in_exact_arithmetic(_: Pipeline) -> None:
    for gradient in adversarial():
        alone = clipped(gradient[None])
        assert sum(Fraction(float(x)) ** 2 for x in alone) <= Fraction(C) ** 2


def a_head_that_dominates_is_within_the_bound_too(_: Pipeline) -> None:
    gradient = torch.cat([torch.full((8,), 1e-3), torch.full((8,), 100.0)])
    assert np.linalg.norm(clipped(gradient[None])) <= C


def a_unit_more_adds_its_own_clipped_gradient_and_changes_nothing_else(_: Pipeline) -> None:
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    added = clipped(rows) - clipped(rows[:-1])
    assert np.allclose(added, clipped(rows[-1:]), rtol=0, atol=1e-12)


def units_join_each_by_itself(_: Pipeline) -> None:
    """The batch size has the variance of independent coins, within the χ² law of 600 batches."""
    steps, units, rate = 600, 40, 0.25
    source = UnsafeSeededRandomness(2, "ash")
    sizes = np.array(
        [
            len(sample_records(np.arange(units), rate, None, source.stream("sample", step, 0, 0)))
            for step in range(steps)
        ]
    )
    statistic = np.sum((sizes - units * rate) ** 2) / (units * rate * (1 - rate))
    low, high = chi2.interval(1 - FALSE_FAILURE, steps)
    assert low < statistic < high


def no_step_uses_more_records_of_a_unit_than_the_cap(pipeline: Pipeline) -> None:
    most = []
    real = PerUnitGradients.clipped_sum

    def counted(self: PerUnitGradients, batches: Any, *clipping: Any) -> ClippedSum:
        kept = list(batches)
        most.extend(int(torch.bincount(batch.units).max()) for batch in kept)
        return real(self, kept, *clipping)

    with patched() as patch:
        patch.setattr(PerUnitGradients, "clipped_sum", counted)
        for step in range(3):
            pipeline.trainer().vector(pipeline.adapter, step, 0)
    assert max(most) == CAP


def _noise(this: Mechanism, sites: int, units: int) -> NDArray[np.int64]:
    """The noise of some sites' releases, each of so many units with one coordinate each."""
    total = np.zeros(this.dimension)
    total[:units] = C
    noise = np.zeros(this.dimension, np.int64)
    for site in range(sites):
        stream = UnsafeSeededRandomness(7, str(site)).stream("noise", 0, 0, 0)
        noise += this.release(total, units, stream) - np.rint(total * this.scale).astype(np.int64)
    return noise


def honest_shares_carry_the_noise_that_is_charged(_: Pipeline) -> None:
    """Variance of the sum of the shares: no less than charged, within 5 standard errors (3e-7)."""
    shares, dimension = 4, 50_000
    this = Mechanism.design(C, 1.3, dimension, shares, cohort=6, max_batch=20)
    charged = (this.effective_noise_multiplier * this.sensitivity) ** 2
    ratio = np.var(_noise(this, shares, 20)) / charged
    assert abs(ratio - 1) < 5 * math.sqrt(2 / dimension)


def the_noise_does_not_depend_on_the_data(_: Pipeline) -> None:
    dimension = 50_000
    this = Mechanism.design(C, 1.3, dimension, 1, cohort=2, max_batch=20)
    few, many = (np.var(_noise(this, 1, units)) for units in (0, 20))
    assert abs(many / few - 1) < 5 * math.sqrt(4 / dimension)


def no_two_steps_share_their_noise(pipeline: Pipeline) -> None:
    """A site's own trainer, and the randomness of a deployed site: correlation 0 within 5 σ."""
    trainer, adapter = pipeline.trainer(), pipeline.adapter
    releases = [
        trainer.vector(adapter, step, attempt) for step, attempt in ((0, 0), (1, 0), (1, 1))
    ]
    source, zeros = SessionRandomness(), np.zeros(len(adapter))
    this = pipeline.encoding.mechanism
    assert this is not None
    releases += [this.release(zeros, 0, source.stream("noise", step, 0, 0)) for step in (0, 1)]
    for i, one in enumerate(releases):
        for other in releases[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) * math.sqrt(len(one)) < norm.isf(1e-7)


def the_sampler_has_the_exact_mass(_: Pipeline) -> None:
    sigma, size = 4, 200_000
    drawn = discrete_gaussian.sample(sigma, size, Stream(bytes(32)))
    n = np.arange(-14, 15)
    mass = np.exp(-(n**2) / (2 * sigma**2))
    expected = size * mass / mass.sum()
    observed = np.bincount(np.clip(drawn, -14, 14) + 14, minlength=29)
    assert chi2.sf(np.sum((observed - expected) ** 2 / expected), 28) > FALSE_FAILURE


def the_contract_keeps_the_plans_epsilon_at_its_delta(pipeline: Pipeline) -> None:
    """By Opacus's accountant, which calibration does not use; 0.01 is its own slack."""
    fields = pipeline.plan.model_dump()
    fields["privacy"] |= {"epsilon": 3.0, "noise_multiplier": None}
    fields["training"] |= {"sampling_rate": 1.0}
    contract, _ = prepare(Plan(**fields), Path())
    assert contract.privacy.noise_multiplier is not None
    event = GaussianEvent(1.0, contract.privacy.noise_multiplier)
    spares = contract.privacy.spare_attempts or 0
    spent = epsilon_prv({event: 2 * 5 + spares}, contract.privacy.delta)
    assert 3.0 * 0.98 < spent < 3.0 * 1.005 + 0.01


# The bugs.


def no_clip(patch: Patch) -> None:
    patch.setattr(FlatClipping, "factors", lambda _, norms, __: torch.ones_like(norms))


def float32_norm(patch: Patch) -> None:
    def squared(values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.float32).square().sum().to(torch.float64)

    patch.setattr(hortus.privacy.gradients.engine, "_squared_norm", squared)


def rounding_of_the_norm_forgotten(patch: Patch) -> None:
    def factors(_: FlatClipping, norms: torch.Tensor, bound: float) -> torch.Tensor:
        return torch.clamp(bound / (norms * (1 - 2.0**-30)), max=1.0)

    patch.setattr(FlatClipping, "factors", factors)


def head_left_out_of_the_norm(patch: Patch) -> None:
    patch.setattr(FlatClipping, "groups", lambda _, names: [int("head" in n) for n in names])
    patch.setattr(
        FlatClipping,
        "factors",
        lambda _, norms, bound: torch.clamp(bound / norms[:1], max=1.0).expand_as(norms),
    )


def each_layer_with_a_norm_of_its_own(patch: Patch) -> None:
    patch.setattr(FlatClipping, "groups", lambda _, names: list(range(len(names))))


def mean_instead_of_sum(patch: Patch) -> None:
    real = PerUnitGradients.clipped_sum

    def mean(
        self: PerUnitGradients, batches: Any, clipping: Any, grid: float = FINE_GRID
    ) -> ClippedSum:
        result = real(self, batches, clipping, grid)
        total = np.trunc(result.total / grid / max(1, result.norms.shape[1])) * grid
        return ClippedSum(total, result.norms)

    patch.setattr(PerUnitGradients, "clipped_sum", mean)


def fixed_batch_instead_of_poisson(patch: Patch) -> None:
    def exactly(self: Stream, probability: float, size: int) -> NDArray[np.bool_]:
        chosen = np.zeros(size, bool)
        chosen[np.argsort(self.uniform53(size))[: round(probability * size)]] = True
        return chosen

    patch.setattr(Stream, "bernoulli", exactly)


def unit_cap_ignored(patch: Patch) -> None:
    patch.setattr(
        hortus.client.trainer,
        "sample_records",
        lambda units, rate, _, *rest: sample_records(units, rate, None, *rest),
    )


def share_divided_twice(patch: Patch) -> None:
    real = Mechanism.share_std.fget  # type: ignore[attr-defined]
    patch.setattr(
        Mechanism,
        "share_std",
        property(lambda self: math.ceil(real(self) / math.sqrt(self.shares))),
    )
    accounted = Mechanism.effective_noise_multiplier.fget  # type: ignore[attr-defined]
    patch.setattr(
        Mechanism,
        "effective_noise_multiplier",
        property(lambda self: accounted(self) * math.sqrt(self.shares)),
    )


def _release_with_std(scaled: Callable[[int, int], float]) -> Callable[..., Any]:
    def release(
        self: Mechanism, clipped_sum: NDArray[np.float64], units: int, stream: Stream
    ) -> NDArray[np.int64]:
        std = round(scaled(self.share_std, units))
        dither = stream.uniform53(self.dimension)
        rounded = np.floor(clipped_sum * self.scale + dither).astype(np.int64)
        return rounded + discrete_gaussian.sample(std, self.dimension, stream)

    return release


def noise_divided_by_the_batch(patch: Patch) -> None:
    patch.setattr(Mechanism, "release", _release_with_std(lambda std, units: std / max(1, units)))


def noise_multiplied_by_the_batch(patch: Patch) -> None:
    patch.setattr(Mechanism, "release", _release_with_std(lambda std, units: std * max(1, units)))


def seed_reused_across_steps(patch: Patch) -> None:
    real = UnsafeSeededRandomness.stream
    patch.setattr(
        UnsafeSeededRandomness,
        "stream",
        lambda self, purpose, *_: real(self, purpose),
    )


def seed_reused_across_attempts(patch: Patch) -> None:
    real = UnsafeSeededRandomness.stream
    patch.setattr(
        UnsafeSeededRandomness,
        "stream",
        lambda self, purpose, step, *_: real(self, purpose, step),
    )


def one_key_for_a_deployed_site(patch: Patch) -> None:
    patch.setattr(SessionRandomness, "stream", lambda *_: Stream(bytes(32)))


def sampler_off_by_one(patch: Patch) -> None:
    real = discrete_gaussian.sample

    def floored(sigma: int, size: int, stream: Stream) -> NDArray[np.int64]:
        drawn = real(sigma, size, stream)
        return np.where(drawn < 0, drawn - 1, drawn)

    patch.setattr(discrete_gaussian, "sample", floored)


def sampler_with_a_smaller_sigma(patch: Patch) -> None:
    real = discrete_gaussian.sample
    patch.setattr(
        discrete_gaussian, "sample", lambda sigma, size, stream: real(sigma - 1, size, stream)
    )


def wrong_delta(patch: Patch) -> None:
    patch.setattr(
        hortus.planning.prepare,
        "calibrate_noise_multiplier",
        lambda target, delta, *rest: calibrate_noise_multiplier(target, 3 * delta, *rest),
    )


def rounds_counted_for_steps(patch: Patch) -> None:
    patch.setattr(Agreement, "steps", property(lambda self: self.training.rounds))


def share_forgotten_in_the_sensitivity(patch: Patch) -> None:
    patch.setattr(
        Mechanism,
        "share_std",
        property(lambda m: math.ceil(m.noise_multiplier * m.clipping_norm / math.sqrt(m.shares))),
    )
    patch.setattr(
        Mechanism, "effective_noise_multiplier", property(lambda m: float(m.noise_multiplier))
    )


CAUGHT: list[tuple[Callable[[Patch], None], Check]] = [
    (no_clip, no_unit_exceeds_the_bound_in_exact_arithmetic),
    (float32_norm, no_unit_exceeds_the_bound_in_exact_arithmetic),
    (rounding_of_the_norm_forgotten, no_unit_exceeds_the_bound_in_exact_arithmetic),
    (head_left_out_of_the_norm, a_head_that_dominates_is_within_the_bound_too),
    (each_layer_with_a_norm_of_its_own, no_unit_exceeds_the_bound_in_exact_arithmetic),
    (mean_instead_of_sum, a_unit_more_adds_its_own_clipped_gradient_and_changes_nothing_else),
    (fixed_batch_instead_of_poisson, units_join_each_by_itself),
    (unit_cap_ignored, no_step_uses_more_records_of_a_unit_than_the_cap),
    (share_divided_twice, honest_shares_carry_the_noise_that_is_charged),
    (share_forgotten_in_the_sensitivity, honest_shares_carry_the_noise_that_is_charged),
    (noise_divided_by_the_batch, honest_shares_carry_the_noise_that_is_charged),
    (noise_multiplied_by_the_batch, the_noise_does_not_depend_on_the_data),
    (seed_reused_across_steps, no_two_steps_share_their_noise),
    (seed_reused_across_attempts, no_two_steps_share_their_noise),
    (one_key_for_a_deployed_site, no_two_steps_share_their_noise),
    (sampler_off_by_one, the_sampler_has_the_exact_mass),
    (sampler_with_a_smaller_sigma, the_sampler_has_the_exact_mass),
    (wrong_delta, the_contract_keeps_the_plans_epsilon_at_its_delta),
    (rounds_counted_for_steps, the_contract_keeps_the_plans_epsilon_at_its_delta),
]
CHECKS = list(dict.fromkeys(check for _, check in CAUGHT))


@contextmanager
def patched() -> Iterator[Patch]:
    with Patch.context() as patch:
        yield patch


def name(function: Callable[..., None]) -> str:
    return function.__name__


@pytest.mark.parametrize("check", CHECKS, ids=name)
def test_the_code_as_it_is_passes(pipeline: Pipeline, check: Check) -> None:
    check(pipeline)


@pytest.mark.parametrize(("bug", "check"), CAUGHT, ids=name)
def test_a_planted_bug_is_caught(
    pipeline: Pipeline, bug: Callable[[Patch], None], check: Check
) -> None:
    with patched() as patch:
        bug(patch)
        with pytest.raises((AssertionError, HortusError)):  # some are refused before a check looks
            check(pipeline)
