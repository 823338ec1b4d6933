"""Base models: found on this machine only, identified by their contents, read without running code."""

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging as transformers_logging

from hortus.protocol.errors import UsageError
from hortus.protocol.plan import Adapter, Precision, Task

# Logits are this many times the cosine-like products of unit embeddings and the head's rows.
_EMBEDDING_SCALE = 8.0
_HIDDEN = (".", "__pycache__")
_NEVER_READ = {".py", ".pyc", ".md"}
# Encoders that are embeddings and then `encoder.layer`, each layer a function of states and mask.
_LAYERED = ("bert", "roberta", "xlm-roberta", "camembert")
_DTYPES = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
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


def is_relative_model(spec: str) -> bool:
    """Whether a plan's base model is a folder that is found from the plan's own."""
    return not spec.startswith("package:") and not Path(spec).is_absolute()


def model_digest(path: Path) -> str:
    """Returns the SHA-256 over names and contents of all files in a model's folder.

    Whatever `transformers` comes to read there is among them. Left out are hidden files, Python code,
    which is never run, and Markdown.

    Raises:
        UsageError: A folder within it is a link, or a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in _model_files(path):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
            name = file.relative_to(path).as_posix().encode()
            total.update(len(name).to_bytes(4, "big") + name + content)
    except OSError as error:
        raise _unreadable(path, "model", error) from error
    return total.hexdigest()


def _model_files(path: Path) -> list[Path]:
    files = []
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(_HIDDEN)]
        if links := [name for name in inner if (Path(folder) / name).is_symlink()]:
            raise UsageError(
                f"the folder {links[0]!r} within it is a link",
                where=str(path),
                remedy="Put the folder itself there: what it links to could change unseen.",
            )
        files += [Path(folder) / name for name in names if not name.startswith(_HIDDEN)]
    return sorted(file for file in files if file.suffix not in _NEVER_READ)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """Reads a model's own tokenizer.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except _UNREADABLE as error:
        raise _unreadable(path, "tokenizer", error) from error


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

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns what the head is given, float32 (records, hidden).

        Args:
            input_ids: int64 (records, tokens).
            attention_mask: int64 (records, tokens), 0 where padded.
        """
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return _pool(encoded.last_hidden_state, attention_mask)

    def enter(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, depth: int
    ) -> torch.Tensor:
        """Returns the hidden states that enter layer `depth`, (records, tokens, hidden), 0 where padded.

        Args:
            input_ids: int64 (records, tokens).
            attention_mask: int64 (records, tokens), 0 where padded.
            depth: Layers to go through, at most `frozen_depth`.
        """
        states: torch.Tensor = self.encoder.embeddings(input_ids=input_ids)
        states = self._run(states, attention_mask, slice(depth))
        return torch.where(attention_mask.unsqueeze(-1).bool(), states, 0)

    def forward(
        self,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        depth: int = 0,
        embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns logits, float32 (records, classes), of tokens, of states or of embeddings.

        Args:
            attention_mask: int64 (records, tokens), 0 where padded; not with `embeddings`.
            input_ids: int64 (records, tokens).
            states: What `enter` returned for `depth`.
            depth: Frozen layers, which `states` has gone through.
            embeddings: What `embed` returned.
        """
        if embeddings is None:
            assert attention_mask is not None  # noqa: S101 - goes with tokens and states
            if states is None and depth > 0:
                assert input_ids is not None  # noqa: S101 - one of the three is given
                with torch.no_grad():
                    states = self.enter(input_ids, attention_mask, depth)
            if states is not None:
                states = self._run(states, attention_mask, slice(depth, None))
                embeddings = _pool(states, attention_mask)
            else:
                assert input_ids is not None  # noqa: S101 - one of the three is given
                embeddings = self.embed(input_ids, attention_mask)
        logits: torch.Tensor = self.head(embeddings)
        return logits

    def _run(
        self, states: torch.Tensor, attention_mask: torch.Tensor, layers: slice
    ) -> torch.Tensor:
        """Sends hidden states through some layers, with the mask that the encoder itself makes."""
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=states, attention_mask=attention_mask
        )
        for layer in self.encoder.encoder.layer[layers]:
            states = layer(states, mask)
        return states


def _pool(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the mean over real tokens, as a vector of one length, float32 (records, hidden)."""
    # Overwritten, not multiplied by 0: padding may have overflowed where words have not.
    real = attention_mask.unsqueeze(-1)
    words = torch.where(real.bool(), states, 0)
    words = words.to(torch.promote_types(words.dtype, torch.float32))
    mean = words.sum(1) / real.sum(1).clamp(min=1)
    return _EMBEDDING_SCALE * nn.functional.normalize(mean, dim=-1)


def frozen_depth(base: EncoderClassifier, adapter: Adapter) -> int:
    """Returns how many layers come before the first adapted one.

    Their output never changes, so it is computed once for each record. An architecture whose
    layers are not known to be functions of states and mask counts as having none.
    """
    if base.config.model_type not in _LAYERED:
        return 0
    if adapter.kind == "head":
        return len(base.encoder.encoder.layer)
    return min(adapter.layers) if adapter.layers else 0


def default_device() -> torch.device:
    """Returns the first GPU where there is one, and the processor elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(
    path: Path, task: Task, precision: Precision = Precision.FLOAT32
) -> EncoderClassifier:
    """Reads a base model and puts the task's head on it; without dropout, so that steps repeat.

    Args:
        path: Folder of the model.
        task: Labels and length.
        precision: Of the encoder; the head is float32.

    Raises:
        UsageError: The model cannot be read, or not as many tokens at once as the task says.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        for name, value in vars(config).items():
            if "drop" in name and isinstance(value, float):  # layerdrop and drop_path_rate too
                setattr(config, name, 0.0)
        encoder = AutoModel.from_pretrained(
            path,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=_DTYPES[precision],
        )
    except _UNREADABLE as error:
        raise _unreadable(path, "model", error) from error
    # The pooler is made for another pooling than ours.
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    _check_length(encoder, task)
    return EncoderClassifier(encoder, len(task.labels))


def _check_length(encoder: PreTrainedModel, task: Task) -> None:
    """A text longer than the position table would end the run in the middle, at one site."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's positions start after the padding index.
            longest = module.num_embeddings - (
                0 if module.padding_idx is None else module.padding_idx + 1
            )
            if task.max_length > longest:
                raise UsageError(
                    f"the model reads {longest} tokens at most, not {task.max_length}",
                    where="task.max_length",
                )


def _unreadable(path: Path, what: str, error: Exception) -> UsageError:
    reason = str(error).partition("\n")[0][:200]
    return UsageError(
        f"the {what} cannot be read ({type(error).__name__}: {reason})",
        where=str(path),
        remedy="Hortus reads encoders that transformers has the code for, from safetensors files.",
    )
