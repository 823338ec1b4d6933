"""A merged model as a folder that transformers opens; a classifier on pooled states as one of sentence-transformers'."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from hortus.learning.exports.card import POOLED
from hortus.learning.exports.merging import Merged
from hortus.learning.models.encoder import EMBEDDING_SCALE
from hortus.learning.models.tokens import filler

_MODULES = ("Transformer", "Pooling", "Normalize", "Dense")


def write_model(merged: Merged, labels: tuple[str, ...], folder: Path) -> None:
    """Writes a merged model with its tokenizer.

    Args:
        merged: The model.
        labels: Names of its outputs, where it is a classifier on pooled states.
        folder: A new folder.
    """
    merged.tokenizer.save_pretrained(folder)
    if isinstance(merged.module, PreTrainedModel):
        if merged.module.config.pad_token_id is None:
            merged.module.config.pad_token_id = filler(merged.tokenizer)
        merged.module.save_pretrained(folder, safe_serialization=True)
    else:
        _write_pooled(merged, labels, folder)


def _write_pooled(merged: Merged, labels: tuple[str, ...], folder: Path) -> None:
    """Writes an encoder, the mean of its states, scaled to length 1, and the head as a dense layer.

    The library's normalisation is to length 1, so the head's weight takes over the scale of our embeddings.
    """
    encoder, head = merged.module.encoder, merged.module.head
    if labels:
        encoder.config.id2label = dict(enumerate(labels))
        encoder.config.label2id = {label: number for number, label in enumerate(labels)}
    encoder.save_pretrained(folder, safe_serialization=True)
    places = {name: f"{number}_{name}" if number else "" for number, name in enumerate(_MODULES)}
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": places[name],
            "type": f"sentence_transformers.models.{name}",
        }
        for number, name in enumerate(_MODULES)
    ]
    _write_json(folder / POOLED, modules)
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": merged.longest, "do_lower_case": False},
    )
    width = int(encoder.config.hidden_size)
    _write_json(
        folder / places["Pooling"] / "config.json",
        {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    )
    (folder / places["Normalize"]).mkdir()
    dense = {
        "in_features": width,
        "out_features": int(head.out_features),
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write_json(folder / places["Dense"] / "config.json", dense)
    weights = {
        "linear.weight": (head.weight.detach() * EMBEDDING_SCALE).contiguous(),
        "linear.bias": head.bias.detach().contiguous(),
    }
    save_file(weights, folder / places["Dense"] / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - as JSON has it
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
