"""Base models, frozen layers and adapters, on the tiny model and on MiniLM."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from hortus.learning.loader import Loader
from hortus.learning.methods.adapter_files import save_adapter
from hortus.learning.methods.base import Method
from hortus.learning.methods.head import Head
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.passes.isolation import keep_apart
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import values
from tests.helpers.labelled import labelled

TASK = TextClassification(labels=("warm", "fresh", "cool"))
RECORDS = labelled(("the sky is blue", "grass", "a red red rose is red"), np.array([2, 1, 0]))
ADAPTERS = [
    Head(),
    LoRA(rank=2),
    LoRA(rank=2, layers=(1,), targets=("query", "dense")),
]


def filled(model: PeftModel) -> np.ndarray:
    space = AdapterSpace(model)
    vector = np.random.default_rng(1).normal(0, 0.3, space.dimension).astype(np.float32)
    space.write(model, vector)
    return vector


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_is_a_vector_and_only_its_parameters_change(
    tiny_model: Path, adapter: Method
) -> None:
    model = adapter.attach(TASK.load(tiny_model), seed=1)
    before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    vector = filled(model)
    assert np.array_equal(AdapterSpace(model).read(model), vector)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    assert any("lora_" in name for name in trained) == (adapter.kind == "lora")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_peft_alone_loads_what_was_saved(tiny_model: Path, tmp_path: Path, adapter: Method) -> None:
    model = adapter.attach(TASK.load(tiny_model), seed=1)
    filled(model)
    save_adapter(tmp_path / "adapter", model)
    loaded = PeftModel.from_pretrained(TASK.load(tiny_model).module, tmp_path / "adapter")
    keep_apart(loaded)  # else its products round otherwise
    task = Loader(TASK, load_tokenizer(tiny_model), TASK.load(tiny_model), ADAPTERS[1], 3)
    batch = task.batch(task.encode(RECORDS), np.arange(3), np.arange(3))
    with torch.no_grad():
        ours = model.eval()(**batch.inputs).logits
        assert torch.equal(loaded(**batch.inputs).logits, ours)


def test_the_start_depends_on_the_public_seed_alone(tiny_model: Path) -> None:
    def start(seed: int, noise: int) -> bytes:
        torch.manual_seed(noise)
        model = LoRA().attach(TASK.load(tiny_model), seed)
        return AdapterSpace(model).read(model).tobytes()

    assert start(1, 0) == start(1, 99) != start(2, 0)


@pytest.mark.parametrize("adapter", [Head(), LoRA(rank=2, layers=(1,))])
def test_frozen_layers_computed_once_give_the_same_logits(
    tiny_model: Path, adapter: Method
) -> None:
    base = TASK.load(tiny_model)
    assert adapter.frozen_layers(base.ahead.layers) == (2 if adapter.kind == "head" else 1)
    model = adapter.attach(base, seed=1)
    filled(model)
    cached = Loader(TASK, load_tokenizer(tiny_model), base, adapter, 3)
    whole = Loader(TASK, load_tokenizer(tiny_model), base, LoRA(rank=2), 3)
    with torch.no_grad():
        logits = [
            model(**task.batch(task.encode(RECORDS), np.arange(3), np.arange(3)).inputs).logits
            for task in (cached, whole)
        ]
    assert torch.allclose(logits[0], logits[1], atol=1e-5)


def test_padding_changes_no_record(tiny_model: Path) -> None:
    base = TASK.load(tiny_model)
    model = LoRA(rank=2).attach(base, seed=1)
    filled(model)
    task = Loader(TASK, load_tokenizer(tiny_model), base, LoRA(rank=2), 3)
    encoded = task.encode(RECORDS)
    with torch.no_grad():
        together = model(**task.batch(encoded, np.arange(3), np.arange(3)).inputs).logits
        alone = [model(**b.inputs).logits for b in task.batches(encoded, np.arange(3), 1)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_metrics_are_those_of_the_predictions(tiny_model: Path) -> None:
    base = TASK.load(tiny_model)
    task = Loader(TASK, load_tokenizer(tiny_model), base, Head(), 2)
    # A zero head predicts label 0.
    metrics = values(task.measure(base.module, task.encode(RECORDS)))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["macro_f1"] == pytest.approx(0.5 / 3)
    assert metrics["loss"] == pytest.approx(np.log(3), abs=1e-6)


def test_the_digest_follows_every_byte_that_matters(tiny_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert model_digest(copy) == model_digest(tiny_model)
    (copy / "README.md").write_text("no part of the model")
    assert model_digest(copy) == model_digest(tiny_model)
    config = copy / "config.json"
    config.write_text(config.read_text() + " ")
    assert model_digest(copy) != model_digest(tiny_model)


@pytest.mark.parametrize(
    "spec", ["nowhere", "package:nowhere_at_all/x", "package:json/x", "package:../x"]
)
def test_a_model_that_is_not_there_is_explained(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UsageError, match="there is no folder|no config.json|not installed"):
        resolve_model(spec, tmp_path)


def test_the_packaged_model_is_found_without_importing_its_package(minilm: Path) -> None:
    assert (minilm / "model.safetensors").stat().st_size > 80_000_000


@pytest.mark.parametrize("spec", ["x" * 5000, "a\0b", "\ud800"])
def test_a_name_that_no_folder_can_have_is_explained(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UsageError, match="cannot be read|there is no"):
        resolve_model(spec, tmp_path)
