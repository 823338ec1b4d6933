import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel

from hortus.learning.methods.lora import LoRA
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError

TASK = TextClassification(labels=("warm", "fresh", "cool"), max_length=16)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_folder_is_relative_to_the_plan(tiny_model: Path) -> None:
    assert resolve_model(tiny_model.name, tiny_model.parent) == tiny_model
    assert resolve_model(str(tiny_model), Path("/nowhere")) == tiny_model


def test_a_model_inside_a_package_is_found_without_running_the_package(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "boxed_encoder"
    shutil.copytree(tiny_model, package / "model")
    (package / "__init__.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_model("package:boxed_encoder/model", Path()) == package / "model"
    assert "boxed_encoder" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("package:no_such_encoder/model", "pip install no-such-encoder"),
        ("package:../evil", "not installed"),
        ("package:json.decoder/model", "not installed"),
        ("sentence-transformers/all-MiniLM-L6-v2", "contacts no hub"),
        ("https://example.org/model", "contacts no hub"),
    ],
)
def test_a_model_that_is_not_here_is_explained(tmp_path: Path, spec: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        resolve_model(spec, tmp_path)
    assert spec in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_of_a_model_is_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(UsageError, match=f"no {missing}"):
        resolve_model(str(copy), Path())


def test_every_byte_and_name_that_matters_changes_the_digest(copy: Path) -> None:
    seen = {model_digest(copy)}
    for name in ("config.json", "model.safetensors", "vocab.txt", "tokenizer.json"):
        path = copy / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen.add(model_digest(copy))
        path.write_bytes(content)
    (copy / "vocab.txt").rename(copy / "merges.txt")
    seen.add(model_digest(copy))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"not tensors"),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-architecture"}'),
        ("config.json", b"{}"),
    ],
)
def test_a_broken_model_is_explained(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        TASK.load(copy)
    assert str(copy) in str(caught.value)


def test_code_inside_a_model_folder_is_not_run(copy: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    config["model_type"] = "evil"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError):
        TASK.load(copy)
    assert not ran.exists()


def test_a_pickled_model_is_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(UsageError):
        TASK.load(copy)


def test_a_broken_tokenizer_is_explained(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="tokenizer cannot be read"):
        load_tokenizer(copy)


def test_texts_longer_than_the_model_reads_are_refused_before_any_data(tiny_model: Path) -> None:
    TASK.model_copy(update={"max_length": 64}).load(tiny_model)
    with pytest.raises(UsageError, match="reads 64 tokens at most, not 65"):
        TASK.model_copy(update={"max_length": 65}).load(tiny_model)


def test_a_roberta_reads_fewer_tokens_than_it_has_positions(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=18,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    base = TASK.load(tmp_path)
    assert base.ahead is not None
    assert LoRA(layers=(1,)).frozen_layers(base.ahead.layers) == 1
    model = base.module
    tokens = torch.full((1, 16), 5)
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    assert logits.shape == (1, 3)
    with pytest.raises(UsageError, match="reads 16 tokens at most, not 17"):
        TASK.model_copy(update={"max_length": 17}).load(tmp_path)


def test_loading_is_silent_and_leaves_nothing_to_chance(
    tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = TASK.load(tiny_model).module
    tokens = torch.tensor([[2, 5, 6, 3]])
    model.train()
    first, second = (
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not first.any()
    assert all(m.p == 0 for m in model.modules() if isinstance(m, nn.Dropout))
    assert capfd.readouterr() == ("", "")


def test_embeddings_have_one_length_and_no_padding_in_them(tiny_model: Path) -> None:
    model = TASK.load(tiny_model).ahead
    assert model is not None
    tokens = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 5, 6, 7, 8, 3]])
    mask = (tokens != 0).long()
    embeddings = model.embed(tokens, mask)
    assert torch.allclose(embeddings.norm(dim=1), torch.tensor(8.0))
    alone = model.embed(tokens[:1, :4], mask[:1, :4])
    assert torch.allclose(embeddings[:1], alone, atol=1e-5)
    assert torch.isfinite(model.embed(tokens, torch.zeros_like(mask))).all()


def test_the_packaged_encoder_knows_what_is_alike(minilm: Path) -> None:
    model, tokenizer = TASK.load(minilm).ahead, load_tokenizer(minilm)
    assert model is not None
    texts = ["my card was stolen", "somebody took my bank card", "when is my blood test"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    embeddings = model.embed(inputs["input_ids"], inputs["attention_mask"])
    likeness = embeddings @ embeddings.T
    assert likeness[0, 1] > 2 * likeness[0, 2]
