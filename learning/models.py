"""Base models: found on this machine only, identified by their contents, read without running code."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from hortus.protocol.errors import UsageError
from hortus.protocol.plan import Adapter, Task

# Logits are this many times the cosine-like products of unit embeddings and the head's rows.
_EMBEDDING_SCALE = 8.0
_CONTENT = ("*.json", "*.safetensors", "vocab.txt", "merges.txt", "*.model")
_NO_HUB = "Hortus contacts no hub: give a folder, or package:NAME/FOLDER for an installed package."


def resolve_model(spec: str, base: Path) -> Path:
    """Finds the folder of a base model.

    Args:
        spec: A folder, or `package:NAME/FOLDER` for one inside an installed Python package.
        base: What a relative folder is relative to.

    Raises:
        UsageError: There is no such package or folder, or it holds no safetensors model.
    """
    if spec.startswith("package:"):
        name, _, inner = spec.removeprefix("package:").partition("/")
        found = importlib.util.find_spec(name) if name.isidentifier() else None
        if found is None or found.origin is None:
            raise UsageError(
                f"the Python package {name!r} is not installed",
                where=f"model: {spec}",
                remedy=f"Install it: pip install {name.replace('_', '-')}",
            )
        path = Path(found.origin).parent / inner
    else:
        path = base / spec
    for needed in ("config.json", "model.safetensors"):
        if not (path / needed).is_file():
            raise UsageError(
                f"there is no {needed} in {path}", where=f"model: {spec}", remedy=_NO_HUB
            )
    return path


def model_digest(path: Path) -> str:
    """Returns the SHA-256 over names and contents of configuration, weights and tokenizer."""
    total = hashlib.sha256()
    for file in sorted({file for pattern in _CONTENT for file in path.glob(pattern)}):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        total.update(len(file.name).to_bytes(4, "big") + file.name.encode() + content)
    return total.hexdigest()


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Reads a model's own tokenizer."""
    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)


class EncoderClassifier(nn.Module):
    """A transformer encoder, masked mean pooling to a unit vector, and a linear head that starts at 0.

    Args:
        encoder: A `transformers` encoder.
        classes: Number of labels.
    """

    def __init__(self, encoder: PreTrainedModel, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.config: Any = encoder.config
        self.head = nn.Linear(int(self.config.hidden_size), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def enter(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, depth: int
    ) -> torch.Tensor:
        """Returns the hidden states that enter layer `depth`, float32 (records, tokens, hidden).

        Args:
            input_ids: int64 (records, tokens).
            attention_mask: int64 (records, tokens), 0 where padded.
            depth: Layers to go through, on an encoder of BERT's form; 0 gives its embeddings.
        """
        states: torch.Tensor = self.encoder.embeddings(input_ids=input_ids)
        for layer in self.encoder.encoder.layer[:depth]:
            states = layer(states, _attend(attention_mask))
        return states

    def forward(
        self,
        attention_mask: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        depth: int = 0,
    ) -> torch.Tensor:
        """Returns logits, float32 (records, classes).

        Args:
            attention_mask: int64 (records, tokens), 0 where padded.
            input_ids: int64 (records, tokens), or None with `states`.
            states: What `enter` returned for `depth`.
            depth: Layers that `states` has gone through.
        """
        if states is None:
            encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
            states = encoded.last_hidden_state
        else:
            for layer in self.encoder.encoder.layer[depth:]:
                states = layer(states, _attend(attention_mask))
        weights = attention_mask.unsqueeze(-1).to(torch.float32)
        mean = (states * weights).sum(1) / weights.sum(1)
        logits: torch.Tensor = self.head(_EMBEDDING_SCALE * nn.functional.normalize(mean, dim=-1))
        return logits


def frozen_depth(base: EncoderClassifier, adapter: Adapter) -> int:
    """Returns how many of the first layers an adapter leaves as they are.

    Their output never changes, so it is computed once for each record. An encoder that is not of
    BERT's form counts as having none.
    """
    layers = getattr(getattr(base.encoder, "encoder", None), "layer", None)
    if layers is None or not hasattr(base.encoder, "embeddings"):
        return 0
    if adapter.kind == "head":
        return len(layers)
    return min(adapter.layers) if adapter.layers else 0


def _attend(attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns which tokens may be looked at, bool (records, 1, 1, tokens)."""
    return attention_mask[:, None, None, :].to(torch.bool)


def load_base(path: Path, task: Task) -> EncoderClassifier:
    """Reads a base model and puts the task's head on it; without dropout, so that steps repeat."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    encoder = AutoModel.from_pretrained(
        path, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return EncoderClassifier(encoder, len(task.labels))
