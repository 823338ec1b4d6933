"""Frozen layers of decoders that are run once, and losses that need no logits of a prompt."""

from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from hortus.learning.models import decoder
from hortus.learning.models.decoder import Decoder, token_losses
from hortus.learning.tasks.base import IGNORED

LAYERS = 3
VOCABULARY = 50
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
_GPT2 = {"n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}
_OPT = {"ffn_dim": 24, "word_embed_proj_dim": 12, "dropout": 0.0, "pad_token_id": 0}
# Each with the linear layers that it is adapted beside.
DECODERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("Llama", _LLAMA, "q_proj"),
    "qwen2": (
        "Qwen2",
        _LLAMA | {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4},
        "q_proj",
    ),
    "qwen3": ("Qwen3", _LLAMA, "down_proj"),
    "mistral": ("Mistral", _LLAMA | {"sliding_window": 4}, "v_proj"),
    "gemma": ("Gemma", _LLAMA, "o_proj"),
    "gemma2": (
        "Gemma2",
        _LLAMA | _SLIDING | {"layer_types": _SLIDING["layer_types"][:LAYERS]},
        "q_proj",
    ),
    "phi": ("Phi", _LLAMA | {"num_key_value_heads": 2}, "fc2"),
    "phi3": ("Phi3", _LLAMA | {"partial_rotary_factor": 1.0}, "qkv_proj"),
    "opt": ("OPT", _LLAMA | _OPT, "k_proj"),
    "gpt2": ("GPT2", _LLAMA | _GPT2, "c_attn"),
    "gpt-neox": ("GPTNeoX", _LLAMA, "dense"),
}
every_decoder = pytest.mark.parametrize("name", DECODERS)


def made(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    family, fields, _ = DECODERS[name]
    config = getattr(transformers, f"{family}Config")(**fields)
    for field, value in vars(config).items():
        if isinstance(value, float) and "drop" in field:
            setattr(config, field, 0.0)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def adapted(name: str, model: Any, layer: int) -> nn.Module:
    """Puts LoRA, away from 0, beside the last layers from one on."""
    targets = [
        one
        for one, module in model.named_modules()
        if one.endswith(f".{DECODERS[name][2]}")
        and any(f".{number}." in one for number in range(layer, LAYERS))
    ]
    config = LoraConfig(r=2, target_modules=targets, fan_in_fan_out=name == "gpt2")
    found = get_peft_model(model, config)
    for parameter in found.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return found


def text(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns tokens, mask, and targets of the later half of each record."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    places = torch.arange(max(lengths))
    mask = (places < torch.tensor(lengths).unsqueeze(1)).long()
    learnt = mask.bool() & (places >= torch.tensor(lengths).unsqueeze(1) // 2)
    return tokens * mask, mask, tokens.where(learnt, IGNORED)


@every_decoder
@pytest.mark.parametrize("depth", [1, LAYERS - 1])
def test_what_frozen_layers_return_once_is_as_good_as_running_them(name: str, depth: int) -> None:
    model = made(name)
    ahead = Decoder(model)
    assert ahead.layers == LAYERS
    assert ahead.reaches(depth)
    network = adapted(name, model, depth)
    tokens, mask, targets = text((9, 6, 12))
    with torch.no_grad():
        states = ahead.enter(tokens, mask, depth)
    assert not states[mask == 0].any()
    trained = [p for p in network.parameters() if p.requires_grad]
    found = []
    for kept in ({}, {"states": states}):
        inputs = {"input_ids": tokens, "attention_mask": mask, "depth": depth, **kept}
        each = token_losses(network, inputs, targets).losses
        found.append((each, *torch.autograd.grad(each.sum(), trained)))
    assert found[0][0].count_nonzero() > 10
    assert all(part.any() for part in found[0])
    assert all(map(torch.equal, *found))


@every_decoder
def test_losses_of_answers_are_those_of_all_logits(name: str) -> None:
    model = made(name)
    Decoder(model)
    network = adapted(name, model, 0)
    tokens, mask, targets = text((9, 6, 12))
    trained = [p for p in network.parameters() if p.requires_grad]
    logits = network(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    expected = decoder._of_logits(logits, targets)
    inputs = {"input_ids": tokens, "attention_mask": mask}
    found = token_losses(network, inputs, targets)
    assert not found.hits.any()
    with torch.no_grad():
        tried = token_losses(network, inputs, targets)
    assert torch.equal(tried.hits, (logits[:, :-1].argmax(2) == targets[:, 1:]))
    assert torch.equal(tried.losses, found.losses)
    assert torch.allclose(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
    weights = torch.rand(found.losses.shape)
    sides = [
        torch.autograd.grad((one * weights).sum(), trained)
        for one in (found.losses, expected.losses)
    ]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*sides, strict=True))


def test_most_decoders_make_no_logits_of_what_is_not_learnt() -> None:
    """Gemma 2 caps its logits, so its own code has to make them."""
    made_by_head = {}
    for name in ("llama", "gpt2", "opt", "gemma2"):
        model = made(name)
        Decoder(model)
        adapted(name, model, 0)
        shapes: list[int] = []
        tokens, mask, targets = text((9, 6, 12))
        model.get_output_embeddings().register_forward_hook(
            lambda _m, _i, output, shapes=shapes: shapes.append(output.shape[1])
        )
        token_losses(model, {"input_ids": tokens, "attention_mask": mask}, targets)
        made_by_head[name] = shapes
    assert made_by_head == {"llama": [], "gpt2": [], "opt": [], "gemma2": [12]}


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_long_answers_are_taken_in_pieces(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_ROWS", rows)
    test_losses_of_answers_are_those_of_all_logits("llama")


def test_a_record_without_an_answer_has_no_loss_and_no_gradient() -> None:
    model = made("llama")
    Decoder(model)
    network = adapted("llama", model, 2)
    trained = [p for p in network.parameters() if p.requires_grad]
    tokens, mask, targets = text((9, 6))
    for nothing in (
        targets.index_fill(0, torch.tensor([1]), IGNORED),
        torch.full_like(targets, IGNORED),
    ):
        found = token_losses(network, {"input_ids": tokens, "attention_mask": mask}, nothing)
        assert not found.losses[1].any()
        assert not found.hits[1].any()
        parts = torch.autograd.grad(found.losses[1].sum(), trained)
        assert not any(part.any() for part in parts)


def test_an_answers_loss_has_the_same_bits_whoever_else_is_there() -> None:
    """The states of each record are its own here, so that the output layer alone is looked at."""
    model = made("llama")
    hidden = torch.randn(3, 12, 16, requires_grad=True)
    _, _, targets = text((9, 6, 12))
    head = model.lm_head.requires_grad_(requires_grad=False)
    together = decoder._of_hidden(hidden, head, targets).losses
    (slopes,) = torch.autograd.grad(together.sum(), hidden)
    for record in range(3):
        own = hidden[record : record + 1].detach().requires_grad_()
        alone = decoder._of_hidden(own, head, targets[record : record + 1]).losses
        assert torch.equal(alone[0], together[record])
        assert torch.equal(torch.autograd.grad(alone.sum(), own)[0][0], slopes[record])


class _Leaky(nn.Module):
    """A layer that reads what the first one left in another place, as Gemma 3n's do."""

    def __init__(self, layer: nn.Module, shelf: list[torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.shelf = layer, shelf

    def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.shelf.append(states)
        return self.layer(states, *args, **kwargs) + self.shelf[0]


def test_layers_that_hand_on_more_than_states_are_not_run_ahead() -> None:
    model = made("llama")
    shelf: list[torch.Tensor] = []
    model.model.layers = nn.ModuleList(_Leaky(layer, shelf) for layer in model.model.layers)
    model.model.register_forward_pre_hook(lambda *_: shelf.clear())
    ahead = Decoder(model)
    assert ahead.layers == LAYERS
    assert not ahead.reaches(2)


def test_layers_that_cannot_be_told_are_not_run_ahead() -> None:
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2, is_decoder=True
    )
    model = transformers.BartForCausalLM(config)
    model.config.num_hidden_layers = 5
    assert Decoder(model).layers == 0
