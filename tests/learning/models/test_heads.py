"""A head of transformers' own is the checkpoint's where it holds it, and starts from the same bits everywhere else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from helpers.tiny_models import ARCHITECTURES, edit_json, edit_weights
from torch import nn

from hortus.learning.methods.lora import LoRA
from hortus.learning.models import heads
from hortus.learning.models.base import Base
from hortus.learning.models.heads import (
    CAUSAL,
    MASKED,
    SEQ2SEQ,
    SEQUENCE,
    SPAN,
    TOKENS,
    HeadKind,
    model_with_head,
)
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

LABELS = ("warm", "cool", "fresh")
IDS = torch.tensor([[2, 5, 6, 3, 0, 0], [2, 7, 8, 9, 5, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves an architecture, with a class of its own if so asked, once."""
    folder = tmp_path_factory.mktemp("heads")

    def save(name: str, model: str | None = None, **fields: object) -> Path:
        made = ARCHITECTURES[name]
        made = replace(made, model=model or made.model, fields=dict(made.fields) | fields)
        path = folder / "-".join([name, made.model, *map(str, fields.values())])
        return path if path.exists() else made.save(path)

    return save


def load(path: Path, kind: HeadKind, precision: Precision = Precision.FLOAT32) -> Base:
    labels = LABELS if kind in (SEQUENCE, TOKENS) else ()
    return model_with_head(path, precision, 8, kind, labels=labels)


def out(base: Base) -> torch.Tensor:
    with torch.no_grad():
        found = base.module(input_ids=IDS, attention_mask=MASK)
    logits: torch.Tensor = found.start_logits if "start_logits" in found else found.logits
    return logits


CLASSIFIERS = [
    ("bert", ("classifier",)),
    ("masked-lm", ("bert.pooler", "classifier")),  # whose pooler is in no file
    ("distilbert", ("classifier", "pre_classifier")),
    ("roberta", ("classifier",)),
    ("deberta", ("classifier", "pooler")),
    ("modernbert", ("classifier",)),  # whose other head is the checkpoint's
    ("albert", ("classifier",)),
    ("electra", ("classifier",)),
    ("gpt2", ("score",)),
    ("opt", ("score",)),
    ("llama", ("score",)),
    ("gemma3", ("score",)),
    ("phi", ("score",)),
    ("bart", ("classification_head",)),
    ("t5", ("classification_head",)),
]


@pytest.mark.parametrize(("name", "parts"), CLASSIFIERS)
def test_a_classifier_starts_at_zero_from_the_same_bits_and_can_learn(
    saved: Save, name: str, parts: tuple[str, ...]
) -> None:
    torch.manual_seed(1)
    base = load(saved(name), SEQUENCE)
    torch.manual_seed(2)
    again = load(saved(name), SEQUENCE).module.state_dict()
    assert base.heads == parts
    assert all(torch.equal(value, again[key]) for key, value in base.module.state_dict().items())
    assert not out(base).any()
    assert base.config.id2label == dict(enumerate(LABELS))
    model = LoRA(rank=2, targets=ARCHITECTURES[name].targets).attach(base, 1)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if ".lora_" not in n} == {
        f"base_model.model.{n.replace(part, f'{part}.modules_to_save.default', 1)}"
        for n in again
        for part in parts
        if n.startswith(f"{part}.")
    }
    loss = model(input_ids=IDS, attention_mask=MASK).logits[:, 0].sum()
    loss.backward()
    named = dict(model.named_parameters())
    assert any(named[n].grad is not None and named[n].grad.any() for n in trained)


def moved(base: Base) -> Base:
    """Away from 0."""
    torch.manual_seed(0)
    for name in base.heads:
        for parameter in base.module.get_submodule(name).parameters():
            nn.init.normal_(parameter)
    return base


@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "opt", "phi", "bart", "t5", "bert", "modernbert"]
)
def test_a_text_is_classified_alike_alone_padded_and_by_transformers(
    saved: Save, name: str
) -> None:
    base = moved(load(saved(name, eos_token_id=3), SEQUENCE))
    both = out(base)
    ids, mask = IDS[:1, :4], MASK[:1, :4]
    with torch.no_grad():
        alone = base.module(input_ids=ids, attention_mask=mask).logits[0]
        theirs = type(base.module)(base.config).eval()
        theirs.load_state_dict(base.module.state_dict())
        expected = theirs(input_ids=ids, attention_mask=mask).logits[0]
    assert torch.allclose(both[0], alone, atol=1e-5)
    assert torch.allclose(alone, expected, atol=1e-5)


@pytest.mark.parametrize("pad", [None, 3, 5, 0])
def test_the_last_token_is_found_by_the_mask_whatever_the_padding_token(
    saved: Save, pad: int | None, tmp_path: Path
) -> None:
    """Here 3 is the end token, and 5 a word."""
    path = ARCHITECTURES["llama"].save(tmp_path / "model")
    edit_json(path / "config.json", pad_token_id=pad)
    base, plain = moved(load(path, SEQUENCE)), moved(load(saved("llama"), SEQUENCE))
    others = IDS.where(MASK.bool(), 3)
    with torch.no_grad():
        found = base.module(input_ids=others, attention_mask=MASK).logits
    assert torch.allclose(found, out(plain), atol=1e-5)


KEPT = [
    ("bert", "BertForSequenceClassification", SEQUENCE),
    ("roberta", "RobertaForSequenceClassification", SEQUENCE),
    ("llama", "LlamaForSequenceClassification", SEQUENCE),
    ("electra", "ElectraForTokenClassification", TOKENS),
    ("deberta", "DebertaV2ForTokenClassification", TOKENS),
]


@pytest.mark.parametrize(("name", "model", "kind"), KEPT)
def test_a_checkpoints_own_head_is_kept_for_the_same_labels_only(
    saved: Save, name: str, model: str, kind: HeadKind
) -> None:
    same = saved(name, model, id2label=dict(enumerate(LABELS)))
    others = saved(name, model, num_labels=3)
    fewer = saved(name, model)
    assert out(load(same, kind)).any()
    assert not out(load(others, kind)).any()
    assert not out(load(fewer, kind)).any()


@pytest.mark.parametrize("name", ["bert", "distilbert", "deberta", "albert", "t5", "llama"])
def test_tokens_have_classes_that_start_at_zero(saved: Save, name: str) -> None:
    base = load(saved(name), TOKENS)
    assert all(one.p == 0 for one in base.module.modules() if isinstance(one, nn.Dropout))
    assert out(base).shape == (2, 6, 3)
    assert not out(base).any()


def test_an_answers_ends_are_the_checkpoints_where_it_was_made_for_them(saved: Save) -> None:
    assert out(load(saved("bert", "BertForQuestionAnswering"), SPAN)).any()
    assert not out(load(saved("bert"), SPAN)).any()


WITHOUT_TRAINED_HEADS = [
    ("llama", "LlamaForCausalLM", CAUSAL),
    ("gpt2", "GPT2LMHeadModel", CAUSAL),
    ("gemma3", "Gemma3ForCausalLM", CAUSAL),
    ("bert", "BertForMaskedLM", MASKED),
    ("modernbert", "ModernBertForMaskedLM", MASKED),
    ("t5", "T5ForConditionalGeneration", SEQ2SEQ),
    ("bart", "BartForConditionalGeneration", SEQ2SEQ),
]


@pytest.mark.parametrize(("name", "model", "kind"), WITHOUT_TRAINED_HEADS)
def test_what_predicts_tokens_is_the_checkpoints_and_not_trained_whole(
    saved: Save, name: str, model: str, kind: HeadKind
) -> None:
    base = load(saved(name, model), kind)
    whole = getattr(transformers, model).from_pretrained(saved(name, model)).state_dict()
    assert base.heads == ()
    assert all(torch.equal(value, whole[key]) for key, value in base.module.state_dict().items())


REFUSED = [
    ("bert", SEQ2SEQ, "'bert' does not turn one text into another"),
    ("bert", CAUSAL, "'bert' does not predict the next token"),
    ("t5", CAUSAL, "'t5' does not predict the next token"),
    ("bart", TOKENS, "'bart' does not give each token a class"),
    ("bart", MASKED, "'bart' does not predict masked tokens"),
    ("llama", MASKED, "'llama' does not predict masked tokens"),
]


@pytest.mark.parametrize(("name", "kind", "told"), REFUSED)
def test_an_architecture_without_a_head_is_refused(
    saved: Save, name: str, kind: HeadKind, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        load(saved(name), kind)
    assert str(caught.value.where).endswith("config.json")
    assert caught.value.remedy


def test_a_decoder_that_looks_ahead_is_refused(
    saved: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved("gemma3", use_bidirectional_attention=True)
    with pytest.raises(UsageError, match="sees the tokens that it is to predict"):
        load(path, CAUSAL)
    monkeypatch.setattr(heads, "_check_looks_back_only", lambda *_: None)
    load(path, CAUSAL)


def test_a_missing_head_of_a_language_model_is_refused(saved: Save, tmp_path: Path) -> None:
    path = ARCHITECTURES["llama"].save(tmp_path / "model")
    with pytest.raises(UsageError, match=r"missing: lm_head\.weight"):
        load(path, CAUSAL)


@pytest.mark.parametrize("kind", [SEQ2SEQ, SEQUENCE, SPAN])
def test_a_decoder_that_starts_from_nothing_is_refused(tmp_path: Path, kind: HeadKind) -> None:
    path = ARCHITECTURES["t5"].save(tmp_path / "model")
    edit_json(path / "config.json", decoder_start_token_id=None)
    with pytest.raises(UsageError, match="decoder_start_token_id is missing"):
        load(path, kind)
    load(path, TOKENS)


def test_a_layer_missing_below_a_head_is_refused(tmp_path: Path) -> None:
    path = ARCHITECTURES["roberta"].save(tmp_path / "model")
    edit_weights(path, lambda weights: {n: w for n, w in weights.items() if ".layer.1." not in n})
    with pytest.raises(UsageError, match="16 weights are missing"):
        load(path, SEQUENCE)


@pytest.mark.parametrize("name", ["masked-lm", "deberta", "llama", "modernbert", "distilbert"])
def test_heads_are_float32_on_half_precision(saved: Save, name: str) -> None:
    base = load(saved(name), SEQUENCE, Precision.BFLOAT16)
    assert moved(base).backbone.dtype == torch.bfloat16
    assert out(base).dtype == torch.float32
    for part in base.heads:
        assert {p.dtype for p in base.module.get_submodule(part).parameters()} == {torch.float32}
