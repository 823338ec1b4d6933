"""A unit adds the same bits to a sum whoever else is in it, under adapters chosen to make it not so.

Sums are of integers on a grid, so what units add is known exactly. The sum of several is compared, bit by bit,
with what each of them adds alone, over random neighbours, orders and sizes of passes. Adapters come from a search without gradients that climbs towards the largest
difference, from denormal numbers to the largest ones; for each task with each method, over units of one record and
of several, in each precision. `benchmarks/isolation.py` runs more cases.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PlanWriter
from helpers.tiny_models import ARCHITECTURES, save_for_task
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2Model

from hortus.learning.loader import Encoded
from hortus.learning.passes.division import Passes, Shape
from hortus.learning.passes.isolation import keep_apart
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.workbench import Workbench
from tests.learning.test_every_task import PAIRS, SAMPLES, TRAINED

CASES = int(os.environ.get("HORTUS_ISOLATION_CASES", "0"))
PER_ADAPTER = 8
REPORT = os.environ.get("HORTUS_ISOLATION_REPORT")
C, RECORDS = 1.0, 24
WAYS = [
    (units, precision) for units in ("records", "patients") for precision in ("float32", "bfloat16")
]
EVERY_LAYER = {"kind": "lora", "rank": 2}
LAST_LAYER = {"kind": "lora", "rank": 2, "layers": [1]}
PAIRS_TRIED = [*PAIRS, ("text-classification", "last layer")]


@dataclass(frozen=True)
class Case:
    """Units in some order, and how many of their records share a pass."""

    units: NDArray[np.int64]
    together: int


class Stage:
    """A model with records, as units of one record or of several."""

    def __init__(self, bench: Workbench, units: str) -> None:
        self.bench = bench
        generator = np.random.default_rng(5)
        largest = bench.loader.passes.largest
        lengths = generator.integers(1, largest, (RECORDS, len(largest)), endpoint=True).tolist()
        encoded = bench.loader.ahead(bench.loader.made_up(list(map(tuple, lengths)), seed=5))
        grouped = np.sort(generator.integers(0, 9, RECORDS))
        self.data: Encoded = replace(encoded, units=grouped) if units == "patients" else encoded

    def added(self, members: NDArray[np.int64], together: int) -> NDArray[np.float64]:
        batches = self.bench.loader.batches(self.data, members, together)
        return self.bench.gradients.clipped_sum(batches, FlatClipping().at(C)).total

    def records_of(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        parts = [np.flatnonzero(self.data.units == unit) for unit in units]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def difference(self, adapter: NDArray[np.float32], cases: Sequence[Case]) -> float:
        """How far, in C, a sum of units is at most from what each adds alone; 0 if all bits agree."""
        with self.bench.holding(adapter):
            alone = {
                unit: self.added(self.records_of(np.array([unit])), 64)
                for unit in np.unique(self.data.units)
            }
            apart = [
                self.added(self.records_of(case.units), case.together)
                - sum(alone[unit] for unit in case.units)
                for case in cases
            ]
        return max(float(np.linalg.norm(one)) for one in apart) / C

    def case(self, generator: np.random.Generator) -> Case:
        units = generator.permutation(np.unique(self.data.units))
        count = generator.integers(len(units) // 2, len(units), endpoint=True)
        return Case(units[:count], int(generator.choice([1, 4, 64, 64])))


def drawn(generator: np.random.Generator, dimension: int) -> NDArray[np.float32]:
    """Numbers of any size that float32 has, alike or mixed, some of them 0."""
    lowest, highest = np.sort(generator.uniform(-45, 38.5, 2))
    if generator.random() < 0.5:
        lowest = highest
    sizes = 10.0 ** generator.uniform(lowest, highest, dimension)
    kept = generator.random(dimension) < generator.choice([0.05, 0.5, 1.0])
    return (generator.normal(size=dimension).clip(-3, 3) * sizes * kept).astype(np.float32)


def moved(generator: np.random.Generator, adapter: NDArray[np.float32]) -> NDArray[np.float32]:
    factors = 10.0 ** generator.normal(0, 2) if generator.random() < 0.5 else 1.0
    chosen = generator.random(len(adapter)) < 0.2
    fresh = np.where(chosen, drawn(generator, len(adapter)), adapter * np.float32(factors))
    return np.nan_to_num(fresh.astype(np.float32), posinf=3e38, neginf=-3e38)


def worst(stage: Stage, cases: int, seed: int, each: int = PER_ADAPTER) -> float:
    """Climbs towards the adapter with the largest difference; returns that difference."""
    generator = np.random.default_rng(seed)
    dimension = stage.bench.space.dimension
    best, best_found, largest, climbed = drawn(generator, dimension), -1.0, 0.0, 0
    for _ in range(-(-cases // each)):
        fresh = climbed > 8 or best_found <= 0
        adapter = drawn(generator, dimension) if fresh else moved(generator, best)
        found = stage.difference(adapter, [stage.case(generator) for _ in range(each)])
        climbed += 1
        if fresh or found > best_found:
            best, best_found, climbed = adapter, found, 0
        largest = max(largest, found)
    return largest


MakeBench = Callable[..., Workbench]


@pytest.fixture
def make_bench(write_plan: PlanWriter, tmp_path: Path) -> MakeBench:
    """Returns the workbench of a task and a method, on the smallest model that the task is tried on."""

    def make(task: str, method: str, precision: str = "float32") -> Workbench:
        kind, _, model = SAMPLES[task]
        path = tmp_path / model
        if not path.exists():
            save_for_task(model, path)
        last = method == "last layer"
        adapter = (
            LAST_LAYER if last else TRAINED[method](ARCHITECTURES[model].targets).section.fields
        )
        plan = write_plan(
            model=str(path),
            task=kind.section.fields,
            adapter=adapter,
            training={"precision": precision},
        )
        return Workbench(load_plan(plan), path)

    return make


@pytest.mark.parametrize(("task", "method"), PAIRS_TRIED)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_no_neighbour_changes_a_bit_of_what_a_unit_adds(
    make_bench: MakeBench, task: str, method: str
) -> None:
    number = PAIRS_TRIED.index((task, method))
    # A sample of one way for each pair, unless more is asked for.
    ways = WAYS if CASES else [WAYS[number % len(WAYS)]]
    cases = max(PER_ADAPTER, CASES // len(ways))
    for units, precision in ways:
        found = worst(Stage(make_bench(task, method, precision), units), cases, seed=11 + number)
        if REPORT:
            with Path(REPORT).open("a", encoding="utf-8") as file:
                file.write(f"{task},{method},{units},{precision},{cases},{found}\n")
        assert found == 0.0


@contextmanager
def padded_to_the_longest(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bug: whoever is there shares passes, padded to the longest of them."""
    with patch.context() as patched:
        patched.setattr(Passes, "shape", lambda _self, *_tokens: Shape(16, padded=True))
        patched.setattr(Passes, "padded_lengths", lambda _self, *tokens: tokens)
        yield


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_the_search_finds_padding_that_follows_the_neighbours(
    write_plan: PlanWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan(write_plan(adapter=EVERY_LAYER))
    stage = Stage(Workbench(plan, Path(plan.model)), "records")
    with padded_to_the_longest(monkeypatch):
        found = worst(stage, 40, seed=11, each=2)
    assert found > 0


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_what_the_frozen_layers_make_of_a_record_has_the_same_bits_among_others(
    write_plan: PlanWriter,
) -> None:
    for adapter in (LAST_LAYER, {"kind": "head"}):
        plan = load_plan(write_plan(adapter=adapter))
        bench = Workbench(plan, Path(plan.model))
        stage = Stage(bench, "records")
        rows = stage.data.states or stage.data.embeddings
        assert rows is not None
        for index in range(RECORDS):
            few = replace(
                stage.data,
                examples=stage.data.examples[index : index + 1],
                units=np.zeros(1, np.int64),
                states=None,
                embeddings=None,
            )
            alone = bench.loader.ahead(few)
            own = alone.states or alone.embeddings
            assert own is not None
            assert torch.equal(own[0], rows[index])


def test_a_product_of_records_has_the_bits_of_each_alone() -> None:
    layer = torch.nn.Linear(48, 40)
    model = torch.nn.Sequential(layer)
    keep_apart(model)
    x = torch.randn(16, 7, 48, requires_grad=True)
    together = model(x)
    (gradient,) = torch.autograd.grad(together.sum(), x)
    for index in range(16):
        one = x[index : index + 1].detach().requires_grad_()
        alone = model(one)
        assert torch.equal(alone[0], together[index])
        assert torch.equal(torch.autograd.grad(alone.sum(), one)[0][0], gradient[index])


class Mixing(torch.nn.Module):
    """A model whose records meet: each is moved by the mean of all."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = self.inner(states, *args, **kwargs)
        return made + 1e-6 * made.mean(0, keepdim=True)


def test_a_model_that_lets_records_meet_gets_one_of_them_at_a_time(
    write_plan: PlanWriter, caplog: pytest.LogCaptureFixture
) -> None:
    plan = load_plan(write_plan(adapter=EVERY_LAYER))
    bench = Workbench(plan, Path(plan.model))
    layers = bench.base.backbone.encoder.layer
    layers[1] = Mixing(layers[1])
    bench.loader.passes.limits.clear()
    bench.gradients = PerUnitGradients(bench.model)
    limits = bench._measured_limits(64)
    assert set(limits.values()) == {1}
    assert "do not share passes in full" in caplog.text
    bench.loader.passes.limits.update(limits)
    found = worst(Stage(bench, "records"), 10, seed=3)
    assert found == 0.0


def test_gpt2s_products_are_kept_apart_too() -> None:
    config = GPT2Config(
        n_embd=32, n_layer=1, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=0
    )
    model = GPT2Model(config).eval()
    keep_apart(model)
    ids = torch.randint(0, 50, (8, 16))
    with torch.no_grad():
        together = model(input_ids=ids).last_hidden_state
        for index in range(8):
            alone = model(input_ids=ids[index : index + 1]).last_hidden_state
            assert torch.equal(alone[0], together[index])
