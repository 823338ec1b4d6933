"""The engine against Opacus, and where Opacus does not know a layer, against one record at a time.

Models and inputs are float64 here, so that all three compute the same sums to about 1e-13 and a
tolerance of 1e-9 leaves room for the order of summation only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus import GradSampleModule
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from hortus.learning.models.encoder import EncoderClassifier
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.opacus import OpacusEngine

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type", "ignore:fan_in_fan_out", "ignore:.*lora_bias"
)
CLASSES, VOCABULARY, WIDTH = 3, 11, 8
TOLERANCE = 1e-9

ATTENTION = {"bert": ["query", "value"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
FEEDFORWARD = {
    "bert": "encoder.layer.0.output.dense",
    "gpt2": "h.0.mlp.c_proj",
    "llama": "layers.0.mlp.down_proj",
}
TABLES = {"bert": "word_embeddings", "gpt2": "wte", "llama": "embed_tokens"}
NORMS = {"bert": ["LayerNorm"], "gpt2": ["ln_1", "ln_f"], "llama": ["input_layernorm", "norm"]}

# Kinds whose every trainable parameter belongs to a module that Opacus knows or can run through functorch.
# LoRA on an embedding and IA3 hold bare parameters, of which Opacus takes no notice; position
# tables are looked up once for all records, which it takes for one record.
KNOWN_TO_OPACUS = ("head", "lora", "lora bias", "bottleneck")
KINDS = (*KNOWN_TO_OPACUS, "lora embedding", "ia3", "norms", "all biases", "everything")


class Bottleneck(nn.Module):
    """An adapter after a layer (Houlsby et al. 2019): h + up(relu(down(h)))."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.down, self.up = nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(x)
        return hidden + self.up(torch.relu(self.down(hidden)))


def encoder(architecture: str) -> Any:
    common = {"vocab_size": VOCABULARY}
    if architecture == "bert":
        return BertModel(
            BertConfig(
                hidden_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=12,
                max_position_embeddings=9,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                **common,
            ),
            add_pooling_layer=False,
        )
    if architecture == "gpt2":
        dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Model(
            GPT2Config(
                n_embd=WIDTH,
                n_layer=1,
                n_head=2,
                n_positions=9,
                **dropouts,
                **common,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    return LlamaModel(
        LlamaConfig(
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=12,
            **common,
        )
    )


def peft_config(architecture: str, kind: str, rank: int) -> PeftConfig | None:
    targets, forward = ATTENTION[architecture], FEEDFORWARD[architecture]
    if kind == "ia3":
        return IA3Config(
            target_modules=[*targets, forward],
            feedforward_modules=[forward],
            modules_to_save=["head"],
        )
    if kind == "norms":
        return LNTuningConfig(target_modules=NORMS[architecture])
    if not kind.startswith("lora"):
        return None
    return LoraConfig(
        r=rank,
        target_modules=targets + [TABLES[architecture]] * (kind == "lora embedding"),
        lora_bias=kind == "lora bias",
        fan_in_fan_out=architecture == "gpt2",
        modules_to_save=["head"],
    )


def build(architecture: str, kind: str, rank: int, seed: int) -> nn.Module:
    """A classifier in float64 with one kind of trainable parameters; none is zero, head included."""
    torch.manual_seed(seed)
    model: nn.Module = EncoderClassifier(encoder(architecture), CLASSES)
    if config := peft_config(architecture, kind, rank):
        model = get_peft_model(model, config)
    elif kind == "bottleneck":
        model.requires_grad_(requires_grad=False)
        parent, _, name = FEEDFORWARD[architecture].rpartition(".")
        holder = model.get_submodule(f"encoder.{parent}")
        setattr(holder, name, Bottleneck(getattr(holder, name)))
    elif kind != "everything":
        for name, parameter in model.named_parameters():
            wanted = name.startswith("head") if kind == "head" else name.endswith("bias")
            parameter.requires_grad_(requires_grad=wanted)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()


@dataclass(frozen=True)
class Texts:
    """Padded random texts of some units."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    units: torch.Tensor

    @classmethod
    def draw(cls, lengths: list[int], units: list[int], seed: int) -> "Texts":
        generator = torch.Generator().manual_seed(seed)
        size = (len(lengths), max(lengths))
        mask = (torch.arange(size[1])[None] < torch.tensor(lengths)[:, None]).long()
        ids = torch.randint(1, VOCABULARY, size, generator=generator) * mask
        labels = torch.randint(0, CLASSES, size[:1], generator=generator)
        _, numbers = np.unique(units[: len(lengths)], return_inverse=True)
        return cls(ids, mask, labels, torch.from_numpy(numbers))

    def losses(self, model: nn.Module) -> torch.Tensor:
        logits = model(input_ids=self.ids, attention_mask=self.mask).logits
        return nn.functional.cross_entropy(logits, self.labels, reduction="none")

    def of(self, records: torch.Tensor) -> "Texts":
        chosen = Texts(*(getattr(self, f)[records] for f in ("ids", "mask", "labels", "units")))
        return replace(chosen, units=torch.unique(chosen.units, return_inverse=True)[1])

    def in_batches(self, units_at_once: int) -> Iterator["Texts"]:
        for some in torch.unique(self.units).split(units_at_once):
            yield self.of(torch.isin(self.units, some))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for _, p in sorted(model.named_parameters()) if p.requires_grad]


def one_by_one(model: nn.Module, texts: Texts) -> NDArray[np.float64]:
    """Each record's gradient by itself, (records, d)."""
    rows = []
    for record in range(len(texts.labels)):
        loss = texts.of(torch.tensor([record])).losses(model).sum()
        gradients = torch.autograd.grad(loss, trainable(model))
        rows.append(torch.cat([g.flatten() for g in gradients]).numpy())
    return np.stack(rows)


def by_opacus(model: nn.Module, texts: Texts) -> NDArray[np.float64]:
    """Each record's gradient as Opacus has it, (records, d)."""
    module = GradSampleModule(model, loss_reduction="sum")
    try:
        texts.losses(module).sum().backward()  # type: ignore[no-untyped-call]
        samples = [p.grad_sample.flatten(1) for p in trainable(model)]  # type: ignore[attr-defined]
        return torch.cat(samples, 1).detach().numpy()
    finally:
        module.to_standard_module()
        model.zero_grad()


def clipped(rows: NDArray[np.float64], units: torch.Tensor, bound: float) -> NDArray[np.float64]:
    """Σ over units of the clipped sum of a unit's records, in NumPy."""
    sums = np.stack([rows[units.numpy() == unit].sum(0) for unit in range(int(units.max()) + 1)])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.maximum(1, norms / bound)).sum(0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    architecture=st.sampled_from(sorted(ATTENTION)),
    kind=st.sampled_from(KINDS),
    rank=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    units=st.lists(st.integers(0, 5), min_size=6, max_size=6),
    units_at_once=st.integers(1, 6),
    clipping=st.sampled_from([1e-3, 0.3, 3.0, np.inf]),
    seed=st.integers(0, 2**16),
)
def test_the_clipped_sum_is_that_of_the_oracle(
    architecture: str,
    kind: str,
    rank: int,
    lengths: list[int],
    units: list[int],
    units_at_once: int,
    clipping: float,
    seed: int,
) -> None:
    model = build(architecture, kind, rank, seed)
    texts = Texts.draw(lengths, units, seed)
    found = PerUnitGradients(model).clipped_sum(
        texts.in_batches(units_at_once), FlatClipping().at(clipping)
    )
    rows = one_by_one(model, texts)
    expected = clipped(rows, texts.units, clipping)
    size = np.abs(rows).max() * len(rows)
    assert np.allclose(found.total, expected, rtol=TOLERANCE, atol=TOLERANCE * size)
    if kind in KNOWN_TO_OPACUS:
        opacus = clipped(by_opacus(model, texts), texts.units, clipping)
        assert np.allclose(found.total, opacus, rtol=TOLERANCE, atol=TOLERANCE * size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", sorted(ATTENTION))
def test_every_kind_of_adapter_in_every_architecture(architecture: str, kind: str) -> None:
    """One example of each, since the property test may miss a pair."""
    model = build(architecture, kind, 2, 1)
    texts = Texts.draw([5, 2, 7, 3], [0, 1, 0, 2], 1)
    found = PerUnitGradients(model).clipped_sum(texts.in_batches(2), FlatClipping().at(0.3)).total
    rows = one_by_one(model, texts)
    assert np.abs(rows).max() > 0
    assert np.allclose(found, clipped(rows, texts.units, 0.3), rtol=TOLERANCE, atol=1e-11)
    if kind in KNOWN_TO_OPACUS:
        theirs = PerUnitGradients(model, OpacusEngine())
        again = theirs.clipped_sum(texts.in_batches(2), FlatClipping().at(0.3)).total
        assert np.allclose(again, found, rtol=TOLERANCE, atol=1e-11)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("architecture", sorted(ATTENTION))
def test_checkpointed_transformers_give_the_same_sum(
    architecture: str, use_reentrant: bool
) -> None:
    model = build(architecture, "lora", 2, 1)
    texts = Texts.draw([5, 2, 7, 3], [0, 1, 0, 2], 1)
    engine, clipping = PerUnitGradients(model), FlatClipping().at(0.3)
    expected = engine.clipped_sum([texts], clipping).total
    inner = model.base_model.model.encoder  # type: ignore[union-attr]
    inner.activation_checkpointing_enable({"use_reentrant": use_reentrant})  # type: ignore[operator, union-attr]
    if use_reentrant:  # which sees no gradient where the first layer's input needs none
        inner.enable_input_require_grads()  # type: ignore[operator, union-attr]
    assert inner.is_activation_checkpointing  # type: ignore[union-attr]
    assert np.array_equal(engine.clipped_sum([texts], clipping).total, expected)
