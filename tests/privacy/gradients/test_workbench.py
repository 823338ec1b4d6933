"""What a model and a plan need of each other is found out before any record is read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, edit_weights
from numpy.typing import NDArray

from hortus.learning.methods.base import Method
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.base import Base
from hortus.learning.models.memory import _of_container, available, kept_for_backward
from hortus.learning.tasks.classification import TextClassification
from hortus.privacy.gradients import workbench
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract, Plan, Training
from hortus.protocol.privacy import Privacy
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.surroundings import out_of_memory
from hortus.strategies.fedsgd import FedSGD
from tests.helpers.labelled import labelled

TEXTS = ("apple", "the sky is blue", "a", "the rose is red", "grass is green the leaf is green")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("workbenches")

    def save(name: str) -> Path:
        path = folder / name.replace(" ", "-")
        return path if path.exists() else ARCHITECTURES[name].save(path)

    return save


def contract(adapter: Method, length: int = 16, **privacy: Any) -> Contract:
    plan = Plan(
        name="x",
        model="x",
        task=TextClassification(labels=("warm", "cool"), max_length=length),
        adapter=adapter,
        training=Training(rounds=1, sampling_rate=0.1, nominal_units=10),
        strategy=FedSGD(),
        privacy=Privacy(noise_multiplier=1.0, **privacy),
    )
    return plan.contract(model_digest="0" * 64, noise_multiplier=1.0)


def lora(name: str) -> Method:
    return LoRA(rank=2, targets=ARCHITECTURES[name].targets)


def added(bench: Workbench, members: NDArray[np.int64], together: int) -> NDArray[np.float64]:
    records = labelled(tuple(TEXTS[i % len(TEXTS)] for i in range(20)), np.arange(20) % 2)
    batches = bench.loader.batches(bench.loader.encode(records), members, together)
    return bench.gradients.clipped_sum(batches, FlatClipping().at(1.0)).total


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "mixtral", "distilbert"])
def test_what_a_record_adds_has_the_same_bits_among_others(
    saved: Callable[[str], Path], name: str
) -> None:
    bench = Workbench(contract(lora(name)), saved(name))
    adapter = np.random.default_rng(1).normal(0, 0.3, bench.space.dimension).astype(np.float32)
    with bench.holding(adapter):
        for own in range(5):
            others = np.array([i for i in range(20) if i != own])
            joined = np.append(others, own)
            alone = added(bench, np.array([own]), 1)
            assert alone.any()
            for together in (1, 4, 64):
                with_ = added(bench, joined, together)
                assert np.array_equal(with_ - added(bench, others, together), alone)


def test_experts_get_the_tokens_of_one_record_at_a_time(saved: Callable[[str], Path]) -> None:
    bench = Workbench(contract(lora("mixtral")), saved("mixtral"))
    assert set(bench.loader.passes.limits.values()) == {1}


def test_lora_on_gpt2_is_what_peft_makes_of_it(saved: Callable[[str], Path]) -> None:
    bench = Workbench(contract(lora("gpt2")), saved("gpt2"))
    shapes = bench.space.shapes
    name = "base_model.model.encoder.h.1.attn.c_attn.lora_B.default.weight"
    assert shapes[name] == (48, 2)
    assert sum(".lora_A." in name for name in shapes) == 4  # c_attn and c_fc of two layers


def draws(base: Base) -> None:
    base.backbone.register_forward_hook(
        lambda _m, _i, out: setattr(
            out, "last_hidden_state", out.last_hidden_state + torch.rand(16) / 10
        )
    )


def remembers(base: Base) -> None:
    seen = [0.0]

    def hook(_module: Any, _inputs: Any, out: Any) -> None:
        out.last_hidden_state = out.last_hidden_state + seen[0] * torch.arange(16)
        seen[0] += 0.1

    base.backbone.register_forward_hook(hook)


@pytest.mark.parametrize("habit", [draws, remembers])
def test_a_model_that_computes_something_else_each_time_is_refused(
    saved: Callable[[str], Path],
    habit: Callable[[Base], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*arguments: Any) -> Base:
        base = read(*arguments)
        habit(base)
        return base

    read = TextClassification.load
    monkeypatch.setattr(TextClassification, "load", load)
    with pytest.raises(UsageError, match="different gradient each time"):
        Workbench(contract(lora("bert")), saved("bert"))


def test_weights_so_large_that_gradients_overflow_are_refused(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(saved("bert"), tmp_path / "model"))

    def enlarge(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if "LayerNorm.weight" in name:
                weights[name] *= 1e30

    edit_weights(path, enlarge)
    with pytest.raises(UsageError, match="NaN or infinite") as caught:
        Workbench(contract(lora("bert")), path, shares_passes=False)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("privacy", "where"),
    [({}, "task.max_length"), ({"unit": "patient", "max_records_per_unit": 100}, "privacy.max_")],
)
def test_a_step_beyond_the_memory_is_refused_by_what_to_lower(
    saved: Callable[[str], Path],
    privacy: dict[str, Any],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hortus.privacy.gradients.workbench.available", lambda _: 100_000)
    with pytest.raises(UsageError, match="a step takes about .* of memory") as caught:
        Workbench(contract(lora("bert"), **privacy), saved("bert"))
    assert str(caught.value.where).startswith(where)
    assert "training.micro_batch" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("sites", "passes_that_fit", "at_once"), [(8, 1.2, 1), (8, 7, 3), (2, 100, 2), (1, 100, 1)]
)
def test_no_more_passes_run_at_once_than_fit_and_no_bit_depends_on_it(
    saved: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    sites: int,
    passes_that_fit: float,
    at_once: int,
) -> None:
    monkeypatch.setattr(workbench, "passes_at_once", lambda sites: sites)
    alone = Workbench(contract(lora("bert")), saved("bert"), shares_passes=False)
    monkeypatch.setattr(Workbench, "_memory_of_pass", lambda *_: (100.0, 16))
    monkeypatch.setattr(workbench, "available", lambda _: int(100 * passes_that_fit))
    bench = Workbench(contract(lora("bert")), saved("bert"), shares_passes=False, sites=sites)
    assert bench.workers == bench.gradients.workers == bench.loader.workers == at_once
    assert np.array_equal(added(bench, np.arange(20), 4), added(alone, np.arange(20), 4))


def test_the_estimate_is_near_what_a_pass_keeps(saved: Callable[[str], Path]) -> None:
    bench = Workbench(contract(lora("bert")), saved("bert"), shares_passes=False)
    few = bench.loader.made_up([(16,)] * 8, seed=0)

    def kept(members: int) -> int:
        batch = bench.loader.batch(few, np.arange(members), np.arange(members))
        return kept_for_backward(lambda: batch.losses(bench.model))[1]

    frozen = kept(1)
    assert 4 * frozen < kept(8) < 8 * frozen + 1


def test_what_is_free_is_the_least_of_all_limits(tmp_path: Path) -> None:
    assert 2**20 < available(torch.device("cpu")) < 2**50
    for name, content in (
        ("memory.max", "1000\n"),
        ("memory.current", "700\n"),
        ("memory.stat", "anon 5\ninactive_file 200\n"),
    ):
        (tmp_path / name).write_text(content)
    assert _of_container(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert _of_container(tmp_path) is None
    assert _of_container(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("error", "is_known"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_an_error_for_want_of_memory_names_what_to_lower(error: Exception, is_known: bool) -> None:
    known = out_of_memory(error)
    assert (known is not None) == is_known
    if known is not None:
        assert isinstance(known, HortusError)
        for word in ("training.micro_batch", "task.max_length", "memory"):
            assert word in str(known)


def test_a_real_allocation_that_fails_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value) is not None
