"""Random models of several architectures, each of some thousand numbers, saved as any other model is."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import COLOURS, WORDS
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# The last one, transformers adds to any tokenizer of Qwen's.
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *COLOURS, *WORDS, "[MASK]", "<|endoftext|>")
POSITIONS = 40
_BERT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_LLAMA = _BERT | {"num_key_value_heads": 1, "bos_token_id": 2, "eos_token_id": 3}
_HEADED = _LLAMA | {"head_dim": 8}
_T5 = {
    "vocab_size": len(VOCABULARY),
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}


@dataclass(frozen=True)
class Architecture:
    """How a tiny model is made: its config, its class, and what LoRA is put on."""

    config: str
    model: str
    fields: Mapping[str, Any]
    targets: tuple[str, ...]

    def save(self, directory: Path, **tokenizer: Any) -> Path:
        """Saves one with its tokenizer."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.fields)
        getattr(transformers, self.model)(config).save_pretrained(directory)
        save_tokenizer(directory, **tokenizer)
        return directory


ARCHITECTURES = {
    "bert": Architecture("BertConfig", "BertModel", _BERT, ("query", "value")),
    "masked-lm": Architecture("BertConfig", "BertForMaskedLM", _BERT, ("query",)),
    "classifier": Architecture(
        "RobertaConfig", "RobertaForSequenceClassification", _BERT, ("key",)
    ),
    "distilbert": Architecture(
        "DistilBertConfig",
        "DistilBertModel",
        {
            "vocab_size": len(VOCABULARY),
            "dim": 16,
            "hidden_dim": 24,
            "n_layers": 2,
            "n_heads": 2,
            "max_position_embeddings": POSITIONS,
        },
        ("q_lin", "v_lin"),
    ),
    "roberta": Architecture("RobertaConfig", "RobertaModel", _BERT, ("query", "dense")),
    "gpt2": Architecture(
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "vocab_size": len(VOCABULARY),
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": POSITIONS,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        ("c_attn", "c_fc"),
    ),
    "llama": Architecture("LlamaConfig", "LlamaModel", _LLAMA, ("q_proj", "v_proj")),
    "qwen2": Architecture("Qwen2Config", "Qwen2ForCausalLM", _LLAMA, ("q_proj", "down_proj")),
    "qwen3": Architecture("Qwen3Config", "Qwen3ForCausalLM", _HEADED, ("q_proj", "up_proj")),
    "gemma2": Architecture("Gemma2Config", "Gemma2ForCausalLM", _HEADED, ("q_proj", "down_proj")),
    "gemma3": Architecture(
        "Gemma3TextConfig", "Gemma3ForCausalLM", _HEADED, ("k_proj", "gate_proj")
    ),
    "mistral": Architecture("MistralConfig", "MistralForCausalLM", _LLAMA, ("q_proj", "o_proj")),
    "phi": Architecture("PhiConfig", "PhiForCausalLM", _LLAMA, ("q_proj", "fc1")),
    "phi3": Architecture("Phi3Config", "Phi3ForCausalLM", _LLAMA, ("qkv_proj", "gate_up_proj")),
    "opt": Architecture(
        "OPTConfig",
        "OPTForCausalLM",
        _BERT
        | {
            "ffn_dim": 24,
            "word_embed_proj_dim": 16,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        ("q_proj", "out_proj"),
    ),
    "deberta": Architecture(
        "DebertaV2Config",
        "DebertaV2Model",
        _BERT
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "position_biased_input": False,
            "max_relative_positions": -1,
            "pooler_hidden_size": 16,
        },
        ("query_proj", "dense"),
    ),
    "modernbert": Architecture(
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        _BERT
        | {
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "local_attention": 8,
            "global_attn_every_n_layers": 2,
        },
        ("Wqkv", "Wi"),
    ),
    "albert": Architecture(
        "AlbertConfig", "AlbertModel", _BERT | {"embedding_size": 8}, ("query", "ffn")
    ),
    "electra": Architecture(
        "ElectraConfig", "ElectraModel", _BERT | {"embedding_size": 8}, ("query", "value")
    ),
    "t5": Architecture("T5Config", "T5Model", _T5, ("q", "v")),
    "t5 encoder": Architecture("T5Config", "T5EncoderModel", _T5, ("wi", "wo")),
    "bart": Architecture(
        "BartConfig",
        "BartModel",
        {
            "vocab_size": len(VOCABULARY),
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": POSITIONS,
            "pad_token_id": 0,
        },
        ("q_proj",),
    ),
    "mixtral": Architecture(
        "MixtralConfig", "MixtralModel", _LLAMA | {"num_local_experts": 4}, ("q_proj", "o_proj")
    ),
}
"""By name."""


TEMPLATE = (
    "{% for m in messages %}[CLS] {{ m['role'] }} {{ m['content'] }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}[CLS] assistant{% endif %}"
)


CHAT: Mapping[str, Any] = {"chat_template": TEMPLATE, "eos_token": "[SEP]", "frame": False}
"""What a tokenizer of conversations has."""
_FOR_TASK: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaForCausalLM", CHAT),
    "bert": ("BertModel", {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}),
    "masked-lm": ("BertForMaskedLM", {"mask_token": "[MASK]"}),
    "t5": ("T5ForConditionalGeneration", {"eos_token": "[SEP]"}),
    "bart": ("BartForConditionalGeneration", {"eos_token": "[SEP]"}),
}


def save_for_task(name: str, directory: Path) -> Path:
    """Saves one of `ARCHITECTURES`, with the head and the tokenizer that tasks need of it.

    A Llama predicts the next token, and its tokenizer knows conversations. A BERT's tokenizer tells two texts apart,
    as BERT's own does.
    """
    architecture = ARCHITECTURES[name]
    model, tokenizer = _FOR_TASK.get(name, (architecture.model, {}))
    return replace(architecture, model=model).save(directory, **tokenizer)


def save_tokenizer(
    directory: Path,
    *,
    vocabulary: tuple[str, ...] = VOCABULARY,
    unknown: str | None = "[UNK]",
    frame: bool = True,
    **named: Any,
) -> None:
    """Saves a tokenizer of whole words.

    Args:
        directory: The model's folder.
        vocabulary: Its tokens, in the order of their ids.
        unknown: Its token for other words; None: it has none.
        frame: Whether it puts [CLS] and [SEP] around a text.
        named: Other arguments of transformers' class.
    """
    ids = {token: number for number, token in enumerate(vocabulary)}
    inner = Tokenizer(models.WordLevel(ids, unk_token=unknown or "no such token"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if frame:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    if unknown:
        special["unk_token"] = unknown
    options = {name: token for name, token in (special | named).items() if token is not None}
    PreTrainedTokenizerFast(tokenizer_object=inner, **options).save_pretrained(directory)


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Changes a model's weights; what the change returns is kept, if it returns anything."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    save_file(change(weights) or weights, path, metadata={"format": "pt"})


def edit_json(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    known = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in known.items() if value is not None}))


def in_parts(directory: Path) -> Path:
    """Cuts a model's weights into several files with an index, as transformers does with large ones."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    half = len(names) // 2
    placed = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(
            {name: weights[name] for name in part}, directory / file, metadata={"format": "pt"}
        )
        placed |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": placed}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory
