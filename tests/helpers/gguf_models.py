"""A tiny Llama as llama.cpp would have written it, for reading GGUF files."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HIDDEN, HEADS, LAYERS = 32, 2, 2
_WORDS = ("<|endoftext|>", "<s>", "</s>", *"abcdefgh", "Ġ", "Ġa", "ab", "cd")
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tiny_llama() -> LlamaForCausalLM:
    """Returns a random Llama with tied embeddings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(_WORDS),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=40,
        tie_word_embeddings=True,
        pad_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def write_gguf(
    path: Path, model: LlamaForCausalLM, *, quantised: bool = False, parts: int = 1, **fields: Any
) -> Path:
    """Writes a Llama of `tiny_llama` with a tokenizer whose padding token is its end token.

    Args:
        path: The file.
        model: Its weights.
        quantised: Whether its matrices are in eight bits (Q8_0).
        parts: How many files it says that it is one of.
        fields: Tensors by their name, in place of the model's.
    """
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    _add_tokenizer(writer)
    for name, tensor in (_tensors(model) | fields).items():
        if quantised and tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(_WORDS))
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control] * 3 + [normal] * (len(_WORDS) - 3))
    writer.add_token_merges(["Ġ a", "a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)


def _tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    state = {name: value.numpy() for name, value in model.model.state_dict().items()}
    found = {
        "token_embd.weight": state["embed_tokens.weight"],
        "output_norm.weight": state["norm.weight"],
    }
    for layer in range(LAYERS):
        for ours, theirs in _LAYER.items():
            value = state[f"layers.{layer}.{ours}.weight"]
            if theirs in (
                "attn_q",
                "attn_k",
            ):  # llama.cpp has a rotation's two numbers side by side
                halves = value.reshape(HEADS, 2, HIDDEN // HEADS // 2, HIDDEN)
                value = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
            found[f"blk.{layer}.{theirs}.weight"] = value
    return found
