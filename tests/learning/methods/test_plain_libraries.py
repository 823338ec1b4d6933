"""What Hortus trained opens with PEFT and transformers alone, and answers the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from helpers.documented import blocks
from helpers.gguf_models import tiny_llama, write_gguf
from helpers.tiny_models import ARCHITECTURES, in_parts

from hortus.learning.methods.adapter_files import (
    add_base,
    save_adapter,
    write_adapter,
    write_template,
)
from hortus.learning.methods.base import Method
from hortus.learning.methods.dora import DoRA
from hortus.learning.methods.head import Head
from hortus.learning.methods.lora import LoRA
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.heads import (
    CAUSAL,
    SEQ2SEQ,
    SEQUENCE,
    SPAN,
    TOKENS,
    HeadKind,
    model_with_head,
)
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.classification import TextClassification
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

ROOT = Path(__file__).parents[3]
LABELS = ("warm", "cool", "fresh")
TEXT = "the sky is blue"
OPENED = [
    ("bert", "BertModel", SEQUENCE, "AutoPeftModelForSequenceClassification", "lora"),
    ("masked-lm", "BertForMaskedLM", SEQUENCE, "AutoPeftModelForSequenceClassification", "head"),
    (
        "modernbert",
        "ModernBertForMaskedLM",
        SEQUENCE,
        "AutoPeftModelForSequenceClassification",
        "dora",
    ),
    ("llama", "LlamaForCausalLM", SEQUENCE, "AutoPeftModelForSequenceClassification", "lora"),
    ("electra", "ElectraModel", TOKENS, "AutoPeftModelForTokenClassification", "lora"),
    ("bert", "BertModel", SPAN, "AutoPeftModelForQuestionAnswering", "lora"),
    ("gpt2", "GPT2LMHeadModel", CAUSAL, "AutoPeftModelForCausalLM", "lora"),
    ("t5", "T5ForConditionalGeneration", SEQ2SEQ, "AutoPeftModelForSeq2SeqLM", "lora"),
]


def method(kind: str, targets: tuple[str, ...]) -> Method:
    return {"lora": LoRA, "dora": DoRA}[kind](rank=2, targets=targets) if kind != "head" else Head()


def trained(path: Path, out: Path, kind: HeadKind, how: Method) -> Any:
    """Writes an adapter away from its start, as a run does; returns the model that it is of."""
    labels = LABELS if kind in (SEQUENCE, TOKENS) else ()
    base = model_with_head(path, Precision.FLOAT32, 8, kind, labels=labels)
    model = how.attach(base, 1)
    space = AdapterSpace(model)
    template = out.with_name("template")
    write_template(template, model, space, base, load_tokenizer(path))
    vector = np.random.default_rng(0).normal(0, 0.3, space.dimension).astype(np.float32)
    write_adapter(out, template, vector, b"{}")
    space.write(model, vector)
    return model.eval()


def logits(model: Any, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        out = model(**tokens)
    found: torch.Tensor = out.start_logits if "start_logits" in out else out.logits
    return found


@pytest.mark.parametrize(("name", "model", "kind", "opener", "how"), OPENED)
def test_peft_opens_an_adapter_by_its_folder_alone(
    tmp_path: Path, name: str, model: str, kind: HeadKind, opener: str, how: str
) -> None:
    made = replace(ARCHITECTURES[name], model=model)
    path, out = made.save(tmp_path / "model"), tmp_path / "adapter"
    ours = trained(path, out, kind, method(how, made.targets))
    add_base(out, path)
    theirs = getattr(peft, opener).from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    tokens = dict(tokenizer([TEXT], return_tensors="pt"))
    tokens.pop("token_type_ids", None)
    if kind is SEQ2SEQ:
        tokens["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    expected = logits(ours, tokens)
    assert expected.any()
    assert torch.allclose(logits(theirs, tokens), expected, rtol=1e-4, atol=1e-4)
    if kind in (SEQUENCE, TOKENS):
        assert theirs.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("name", ["bert", "deberta", "llama"])
def test_a_pipeline_names_the_labels_that_were_trained(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the very lines of docs/models.md."""
    made = ARCHITECTURES[name]
    path, out = made.save(tmp_path / "model"), tmp_path / "exported"
    ours = trained(path, out, SEQUENCE, LoRA(rank=2, targets=made.targets))
    add_base(out, path)
    monkeypatch.chdir(tmp_path)
    written: dict[str, Any] = {}
    exec(*blocks((ROOT / "docs" / "models.md").read_text(), "python"), written)
    assert written["model"].config.id2label == dict(enumerate(LABELS))
    (found,) = written["classify"]([TEXT])
    shares = logits(
        ours, dict(load_tokenizer(path)([TEXT], return_tensors="pt", return_token_type_ids=False))
    )
    best = int(shares.argmax())
    assert found["label"] == LABELS[best]
    assert found["score"] == pytest.approx(float(shares.softmax(1)[0, best]), rel=1e-4)


def test_a_gguf_model_and_one_in_parts_are_beside_their_adapter(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), quantised=True)
    parts = in_parts(ARCHITECTURES["qwen2"].save(tmp_path / "parts"))
    for path, out in ((file, tmp_path / "of-gguf"), (parts, tmp_path / "of-parts")):
        ours = trained(path, out, CAUSAL, LoRA(rank=2, targets=("q_proj",)))
        add_base(out, path)
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(out).eval()
        tokens = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3).long()}
        assert torch.allclose(logits(theirs, tokens), logits(ours, tokens), rtol=1e-4, atol=1e-5)


def test_an_adapter_names_no_folder_of_the_machine_that_trained_it(tmp_path: Path) -> None:
    path, out = ARCHITECTURES["bert"].save(tmp_path / "model"), tmp_path / "adapter"
    trained(path, out, SEQUENCE, LoRA(rank=2))
    assert json.loads((out / "base" / "config.json").read_text())["id2label"]["2"] == "fresh"
    files = [file for file in out.rglob("*") if file.is_file()]
    assert {"tokenizer.json", "tokenizer_config.json"} <= {file.name for file in files}
    for file in files:
        assert str(tmp_path).encode() not in file.read_bytes()


def test_a_pooled_sentence_encoder_is_for_hortus_alone(tiny_model: Path, tmp_path: Path) -> None:
    base = TextClassification(labels=LABELS, max_length=16).load(tiny_model)
    save_adapter(tmp_path / "adapter", LoRA(rank=2).attach(base, 1))
    with pytest.raises(UsageError, match=r"only Hortus opens it: .*task\.head: sequence"):
        add_base(tmp_path / "adapter", tiny_model)
