import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_models import ARCHITECTURES
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from hortus.learning.methods.adapter_files import save_adapter, write_adapter, write_template
from hortus.learning.methods.base import Method
from hortus.learning.methods.ffa_lora import FFALoRA
from hortus.learning.methods.head import Head
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.heads import CAUSAL, SEQ2SEQ, model_with_head
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

TASK = TextClassification(labels=("warm", "fresh", "cool"), max_length=16)
TOKENS = torch.tensor([[2, 5, 6, 3], [2, 7, 9, 3]])
MASK = torch.ones_like(TOKENS)
LORA = LoRA(rank=2, alpha=4)
ADAPTERS = [
    LORA,
    LoRA(rank=3, targets=("query", "dense"), layers=(1,)),
    FFALoRA(rank=2, alpha=4),
    Head(),
]
every_adapter = pytest.mark.parametrize(
    "adapter", ADAPTERS, ids=["lora", "one layer", "ffa-lora", "head"]
)


def trained(path: Path, adapter: Method) -> tuple[PeftModel, AdapterSpace]:
    """A model whose adapter is away from zero."""
    model = adapter.attach(TASK.load(path), seed=1)
    space = AdapterSpace(model)
    noise = np.random.default_rng(0).normal(0, 0.3, space.dimension).astype(np.float32)
    space.write(model, noise)
    return model, space


def logits(model: nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=TOKENS, attention_mask=MASK).logits
    return result


@every_adapter
def test_a_saved_adapter_names_no_folder_of_this_machine(
    tiny_model: Path, tmp_path: Path, adapter: Method
) -> None:
    save_adapter(tmp_path / "adapter", trained(tiny_model, adapter)[0])
    files = sorted((tmp_path / "adapter").iterdir())
    assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    for file in files:
        assert str(tiny_model).encode() not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
    targets = json.loads(files[0].read_text())["target_modules"]
    assert targets == "dummy-target-modules" or targets == sorted(targets)


def test_an_older_adapter_is_replaced_whole(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "stale").touch()
    (tmp_path / ".adapter.partial").mkdir()  # what a crash left
    save_adapter(tmp_path / "adapter", trained(tiny_model, LORA)[0])
    assert not (tmp_path / "adapter" / "stale").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


@every_adapter
def test_an_adapter_written_from_its_vector_is_the_one_that_is_saved(
    tiny_model: Path, tmp_path: Path, adapter: Method
) -> None:
    """What is trained comes from the vector, and what stays as it was drawn from the template."""
    model, space = trained(tiny_model, adapter)
    vector = space.read(model)
    save_adapter(tmp_path / "saved", model)
    tokenizer = load_tokenizer(tiny_model)
    write_template(tmp_path / "template", model, space, TASK.load(tiny_model), tokenizer)
    write_adapter(tmp_path / "written", tmp_path / "template", vector, b"{}")
    saved, written = (
        load_file(tmp_path / one / "adapter_model.safetensors") for one in ("saved", "written")
    )
    assert saved.keys() == written.keys()
    assert all(torch.equal(saved[name], written[name]) for name in saved)


def test_matrices_that_stay_as_they_are_drawn_are_those_of_lora(tiny_model: Path) -> None:
    frozen, trained_too = (
        dict(one.attach(TASK.load(tiny_model), seed=1).named_parameters())
        for one in (FFALoRA(rank=2), LoRA(rank=2))
    )
    for name, parameter in trained_too.items():
        if ".lora_A." in name:
            assert torch.equal(parameter, frozen[name])
            assert parameter.requires_grad
            assert not frozen[name].requires_grad
        else:
            assert frozen[name].requires_grad == parameter.requires_grad


def test_training_starts_at_the_base_model(tiny_model: Path) -> None:
    model = LORA.attach(TASK.load(tiny_model), seed=1)
    named = dict(model.named_parameters())
    assert not any(p.any() for name, p in named.items() if ".lora_B." in name)
    assert not logits(model).any()
    starts = [p for name, p in named.items() if ".lora_A." in name]
    assert all(p.any() and p.abs().max() <= p.shape[1] ** -0.5 for p in starts)


@every_adapter
def test_the_vector_is_all_that_is_trained(tiny_model: Path, adapter: Method) -> None:
    model, space = trained(tiny_model, adapter)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert list(space.shapes) == sorted(trainable)
    assert space.dimension == sum(p.numel() for p in trainable.values())
    assert all(".lora_" in name or ".head." in name for name in trainable)
    if adapter.kind == "head":
        assert space.dimension == 3 * 32 + 3


def test_a_vector_read_before_is_not_changed_by_a_write(tiny_model: Path) -> None:
    model, space = trained(tiny_model, LORA)
    before = space.read(model)
    kept = before.copy()
    space.write(model, np.zeros(space.dimension, np.float32))
    assert np.array_equal(before, kept)


def test_a_vector_of_another_length_is_refused(tiny_model: Path) -> None:
    model, space = trained(tiny_model, LORA)
    for length in (space.dimension - 1, space.dimension + 1):
        with pytest.raises(ValueError, match="float32"):
            space.write(model, np.zeros(length, np.float32))


def test_an_unknown_target_is_told_what_there_is(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="no linear layer 'q_proj'") as caught:
        LoRA(targets=("query", "q_proj")).attach(TASK.load(tiny_model), 0)
    assert "dense, key, query, value" in str(caught.value)


def test_a_layer_that_is_not_there_is_told_the_range(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=r"no layer 2.*It has 0 to 1"):
        LoRA(layers=(1, 2)).attach(TASK.load(tiny_model), 0)


def test_only_the_named_layers_are_adapted(tiny_model: Path) -> None:
    model = LoRA(layers=(1,)).attach(TASK.load(tiny_model), 0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".layer.1." in name or ".head." in name for name in names)
    assert any(".lora_A." in name for name in names)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "t5"])
def test_a_layer_that_is_the_embedding_too_is_not_adapted(tmp_path: Path, name: str) -> None:
    of_both = {"t5": ("T5ForConditionalGeneration", SEQ2SEQ)}
    model, kind = of_both.get(name, (ARCHITECTURES[name].model, CAUSAL))
    made = replace(
        ARCHITECTURES[name],
        model=model,
        fields=dict(ARCHITECTURES[name].fields) | {"tie_word_embeddings": True},
    )
    base = model_with_head(made.save(tmp_path / "model"), Precision.FLOAT32, 8, kind)
    with pytest.raises(UsageError, match=r"lm_head shares its weights with .*Leave lm_head out"):
        LoRA(rank=2, targets=("lm_head",)).attach(base, 1)
    LoRA(rank=2, targets=made.targets).attach(base, 1)
