import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MPNetConfig, MPNetModel

from hortus.learning.data.records import Records
from hortus.learning.loader import Encoded, Loader
from hortus.learning.methods.base import Method
from hortus.learning.methods.head import Head
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models import storage
from hortus.learning.models.base import default_device
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.learning.warm_model import joins_often
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.protocol.plan import Precision
from hortus.runtime.metric import values
from tests.conftest import PlanWriter
from tests.helpers.labelled import labelled, labels_of

TASK = TextClassification(labels=("warm", "fresh", "cool"), max_length=8)
TEXTS = ("the sky is blue", "grass", "a red rose is a red rose is a red rose", "ice", "sea sea sea")
RECORDS = labelled(TEXTS, np.arange(len(TEXTS)) % 3)
ALL = np.arange(len(TEXTS))
LAST = LoRA(rank=2, layers=(1,))
EVERYWHERE = LoRA(rank=2)  # nothing frozen to run ahead


class Bench:
    """A model away from zero, and its task with and without the frozen part run ahead."""

    def __init__(
        self,
        path: Path,
        adapter: Method,
        precision: Precision = Precision.FLOAT32,
        micro_batch: int = 64,
    ) -> None:
        self.base = TASK.load(path, precision)
        self.model = adapter.attach(self.base, 1)
        space = AdapterSpace(self.model)
        vector = np.random.default_rng(0).normal(0, 0.3, space.dimension)
        space.write(self.model, vector.astype(np.float32))
        tokenizer = load_tokenizer(path)
        self.plain = Loader(TASK, tokenizer, self.base, EVERYWHERE, micro_batch)
        self.ahead = Loader(TASK, tokenizer, self.base, adapter, micro_batch)


def kinds(data: Encoded) -> tuple[bool, bool]:
    return data.states is not None, data.embeddings is not None


def test_texts_become_tokens_cut_to_length(tiny_model: Path) -> None:
    data = Bench(tiny_model, LAST).plain.encode(RECORDS)
    assert [len(one.tokens) for one in data.examples] == [6, 3, 8, 3, 5]
    assert [one.target for one in data.examples] == [0, 1, 2, 0, 1]
    assert len(data) == 5


@pytest.mark.parametrize("adapter", [LAST, Head()], ids=["last layer", "head"])
def test_passes_hold_each_record_once_among_its_like(tiny_model: Path, adapter: Method) -> None:
    """Texts of 6, 3, 8, 3 and 5 tokens, of 8 at most: all but the longest are padded to 8."""
    bench = Bench(tiny_model, adapter)
    for task in (bench.plain, bench.ahead):
        data = task.encode(RECORDS)
        batches = list(task.batches(data, np.array([4, 2, 0, 3, 1]), 4))
        found = [batch.index.tolist() for batch in batches]
        alike = [[4, 0, 3, 1], [2]] if data.embeddings is None else [[0, 1, 2, 3], [4]]
        assert sorted(sorted(one) for one in found) == sorted(sorted(one) for one in alike)
        assert [batch.targets.tolist() for batch in batches] == [
            [labels_of(RECORDS)[i] for i in one] for one in found
        ]
        masks = [batch.inputs.get("attention_mask") for batch in batches]
        assert {mask.shape[1] for mask in masks if mask is not None} <= {8}
    assert list(bench.plain.batches(bench.plain.encode(RECORDS), np.array([], np.int64), 2)) == []


@pytest.mark.parametrize(
    ("adapter", "kept"),
    [
        (EVERYWHERE, (False, False)),
        (LoRA(layers=(0, 1)), (False, False)),
        (LAST, (True, False)),
        (Head(), (False, True)),
    ],
    ids=["all layers", "all layers by number", "last layer", "head"],
)
def test_the_frozen_part_is_run_ahead(
    tiny_model: Path, adapter: Method, kept: tuple[bool, bool]
) -> None:
    assert kinds(Bench(tiny_model, adapter).ahead.encode(RECORDS)) == kept


def test_what_is_looked_at_once_is_not_kept_and_comes_to_the_same(tiny_model: Path) -> None:
    bench = Bench(tiny_model, LAST)
    tokenizer = load_tokenizer(tiny_model)
    once = Loader(TASK, tokenizer, bench.base, LAST, 64, keeps=False)
    assert kinds(once.encode(RECORDS)) == (False, False)
    losses = [
        one.batch(one.encode(RECORDS), ALL, ALL).losses(bench.model) for one in (once, bench.ahead)
    ]
    assert torch.equal(*losses)
    assert (once.kept_bytes, bench.plain.kept_bytes) == (0, 0)
    assert bench.ahead.kept_bytes == 8 * 32 * 4  # tokens, width, float32


@pytest.mark.parametrize(
    ("rate", "rounds", "often"), [(0.25, 4, True), (0.25, 3, False), (1.0, 1, True)]
)
def test_a_record_that_joins_less_than_one_step_is_not_kept(
    write_plan: PlanWriter, rate: float, rounds: int, often: bool
) -> None:
    training = {"rounds": rounds, "steps_per_round": 1, "sampling_rate": rate}
    assert joins_often(load_plan(write_plan(training=training))) == often


def test_an_encoder_of_another_form_is_trained_without_running_ahead(
    tiny_model: Path, tmp_path: Path
) -> None:
    """MPNet's layers take a position bias too, which only its own encoder knows to make."""
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    config = MPNetConfig(
        vocab_size=30,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
    )
    MPNetModel(config).save_pretrained(tmp_path)
    for adapter in (LoRA(targets=("q",), layers=(1,)), Head()):
        bench = Bench(tmp_path, adapter)
        engine = PerUnitGradients(bench.model)
        plain, ahead = (
            engine.clipped_sum(
                task.batches(task.encode(RECORDS), ALL, 5), FlatClipping().at(0.1)
            ).total
            for task in (bench.plain, bench.ahead)
        )
        assert np.array_equal(plain, ahead)
        assert plain.any()


@pytest.mark.parametrize("adapter", [LAST, Head()], ids=["last layer", "head"])
def test_running_ahead_changes_no_bit_of_the_same_batch(tiny_model: Path, adapter: Method) -> None:
    """One batch of all records: the same padding in both, so the same arithmetic."""
    bench = Bench(tiny_model, adapter)
    losses = []
    for task in (bench.plain, bench.ahead):
        batch = task.batch(task.encode(RECORDS), ALL, ALL)
        losses.append(batch.losses(bench.model).detach())
    engine = PerUnitGradients(bench.model)
    gradients = [
        engine.clipped_sum(task.batches(task.encode(RECORDS), ALL, 5), FlatClipping().at(0.1)).total
        for task in (bench.plain, bench.ahead)
    ]
    assert losses[0].shape == (5,)
    assert torch.equal(losses[0], losses[1])
    assert np.array_equal(gradients[0], gradients[1])
    assert gradients[0].any()


def test_running_ahead_agrees_in_other_batches(tiny_model: Path) -> None:
    bench = Bench(tiny_model, LAST)
    engine = PerUnitGradients(bench.model)
    plain, ahead = bench.plain.encode(RECORDS), bench.ahead.encode(RECORDS)
    reference = engine.clipped_sum(bench.plain.batches(plain, ALL, 1), FlatClipping().at(0.1)).total
    for size in (1, 2, 3):
        other = engine.clipped_sum(
            bench.ahead.batches(ahead, ALL, size), FlatClipping().at(0.1)
        ).total
        assert np.allclose(other, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "adapter", [EVERYWHERE, LAST, Head()], ids=["all layers", "last layer", "head"]
)
def test_with_a_micro_batch_of_one_no_two_records_meet(tiny_model: Path, adapter: Method) -> None:
    """Then no record can change a bit of another, however much an adapter makes of it."""
    bench = Bench(tiny_model, adapter, micro_batch=1)
    sizes = []
    bench.base.backbone.embeddings.register_forward_hook(
        lambda _module, _inputs, output: sizes.append(len(output))
    )
    task, kept = bench.ahead, ALL[1:]
    engine = PerUnitGradients(bench.model)

    def contributions(records: Records, wanted: np.ndarray) -> list[np.ndarray]:
        batches = list(task.batches(task.encode(records), wanted, 1))
        return [engine.clipped_sum([batch], FlatClipping().at(0.1)).total for batch in batches]

    with_, without = contributions(RECORDS, kept), contributions(RECORDS.take(kept), kept - 1)
    assert len(with_) == len(kept)
    assert all(map(np.array_equal, with_, without))
    assert set(sizes) == {1}


def test_what_was_run_ahead_does_not_depend_on_the_adapter(tiny_model: Path) -> None:
    bench = Bench(tiny_model, LAST)
    before = bench.ahead.encode(RECORDS).states
    space = AdapterSpace(bench.model)
    space.write(bench.model, np.ones(space.dimension, np.float32))
    after = bench.ahead.encode(RECORDS).states
    assert before is not None
    assert after is not None
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_states_too_large_for_the_memory_lie_on_disk_and_else_are_made_again(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tiny_model, LAST)
    size = 4 * 32 * sum(len(one.tokens) for one in bench.plain.encode(RECORDS).examples)
    sums = []
    for memory, disk, kept in ((size, 0, True), (size - 1, 0.5, True), (size - 1, 0, False)):
        monkeypatch.setattr(storage, "_IN_MEMORY", memory)
        monkeypatch.setattr(storage, "_OF_DISK", disk)
        data = bench.ahead.encode(RECORDS)
        assert kinds(data) == (kept, False)
        batch = bench.ahead.batch(data, ALL, ALL)
        sums.append(batch.losses(bench.model).detach())
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_the_packaged_encoder_runs_ahead_bit_for_bit(minilm: Path) -> None:
    bench = Bench(minilm, LoRA(layers=(4, 5)))
    assert LoRA(layers=(4, 5)).frozen_layers(6) == 4
    losses = []
    for task in (bench.plain, bench.ahead):
        batch = task.batch(task.encode(RECORDS), ALL, ALL)
        losses.append(batch.losses(bench.model).detach())
    assert torch.equal(losses[0], losses[1])


def test_evaluation_is_that_of_one_record_at_a_time(tiny_model: Path) -> None:
    bench = Bench(tiny_model, LAST)
    data = bench.plain.encode(RECORDS)
    losses, predicted = [], []
    with torch.no_grad():
        for index in ALL:
            (batch,) = bench.plain.batches(data, np.array([index]), 1)
            losses.append(float(batch.losses(bench.model)))
            predicted.append(int(bench.model(**batch.inputs).logits.argmax()))
    for task in (bench.plain, bench.ahead):
        metrics = values(task.measure(bench.model, task.encode(RECORDS)))
        assert metrics["accuracy"] == np.mean(np.array(predicted) == labels_of(RECORDS))
        assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_precision_is_that_of_the_frozen_part_alone(tiny_model: Path) -> None:
    """Bfloat16 keeps 8 bits: sums agree within some per cent, and differ, or it was ignored."""
    sums = []
    for precision in Precision:
        bench = Bench(tiny_model, LAST, precision)
        assert {p.dtype for p in bench.model.parameters() if p.requires_grad} == {torch.float32}
        frozen = {p.dtype for p in bench.model.parameters() if not p.requires_grad}
        assert frozen >= {getattr(torch, precision)}
        data = bench.ahead.encode(RECORDS)
        assert data.states is not None
        assert data.states[0].dtype == getattr(torch, precision)
        for task in (bench.plain, bench.ahead):
            batches = task.batches(task.encode(RECORDS), ALL, 5)
            sums.append(
                PerUnitGradients(bench.model).clipped_sum(batches, FlatClipping().at(0.1)).total
            )
    assert np.array_equal(sums[0], sums[1])
    assert np.array_equal(sums[2], sums[3])
    assert 0 < np.linalg.norm(sums[2] - sums[0]) < 0.1 * np.linalg.norm(sums[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("adapter", [LAST, Head()], ids=["last layer", "head"])
def test_a_gpu_computes_the_same_sum(tiny_model: Path, adapter: Method) -> None:
    sums = []
    for device in ("cpu", "cuda"):
        bench = Bench(tiny_model, adapter)
        bench.model.to(device)
        batches = bench.ahead.batches(bench.ahead.encode(RECORDS), ALL, 5)
        assert default_device().type == "cuda"
        sums.append(
            PerUnitGradients(bench.model).clipped_sum(batches, FlatClipping().at(0.1)).total
        )
    assert np.allclose(sums[0], sums[1], rtol=1e-3, atol=1e-6)
