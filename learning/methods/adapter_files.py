"""An adapter's folder written from the flat vector alone, without its base model.

A template is an adapter as PEFT saves it, with the order in which the vector's parts go into its tensors, the tokenizer,
and in `base/` the configuration that the base model had: its labels are there.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from hortus.learning.methods.base import ABOUT
from hortus.learning.methods.space import AdapterSpace
from hortus.learning.models.base import Base
from hortus.learning.models.folder import WEIGHTS, gguf_file, transformers_source, weight_files
from hortus.learning.models.heads import HEADS
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.files import write_atomic

TENSORS = "adapter_model.safetensors"
_ORDER = "order.json"
BASE = "base"
_CONFIG = "adapter_config.json"


def save_adapter(
    directory: Path, model: PeftModel, beside: Callable[[Path], None] = lambda _: None
) -> None:
    """Writes the adapter in PEFT's own format, and whatever else beside it: complete, or not at all."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True)
    # PEFT's model card is a blank form that names this machine's folders.
    (partial / "README.md").unlink(missing_ok=True)
    config = partial / _CONFIG
    fields = json.loads(config.read_text(encoding="utf-8"))
    fields["base_model_name_or_path"] = None  # a folder of this machine
    if isinstance(fields["target_modules"], list):
        fields["target_modules"].sort()  # a set in PEFT: another order in every process
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    beside(partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def write_template(
    directory: Path,
    model: PeftModel,
    space: AdapterSpace,
    base: Base,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Writes a model's adapter as a template: complete, or not at all. The model's adapter is changed."""

    def beside(folder: Path) -> None:
        tokenizer.save_pretrained(folder)
        if base.task_type is not None:
            base.module.config.save_pretrained(folder / BASE)  # type: ignore[union-attr,operator]

    parts = enumerate(space.shapes.values())
    numbered = [np.full(int(np.prod(shape)), number, np.float32) for number, shape in parts]
    space.write(model, np.concatenate(numbered))
    save_adapter(directory, model, beside)
    saved = safetensors.torch.load((directory / TENSORS).read_bytes())
    # What is frozen is saved as it is, and holds no part's number throughout.
    filled = {name: float(tensor.flatten()[0]) for name, tensor in saved.items()}
    trained = (name for name, first in filled.items() if bool((saved[name] == first).all()))
    order = sorted(trained, key=lambda name: filled[name])
    write_atomic(directory / _ORDER, json.dumps(order).encode())


def write_adapter(
    directory: Path, template: Path, vector: NDArray[np.float32], about: bytes
) -> None:
    """Writes an adapter, float32[d], in PEFT's format in place of what is there: complete, or not at all.

    Args:
        directory: Where.
        template: From `write_template`.
        vector: The adapter.
        about: What `hortus.json` beside it says.

    Raises:
        HortusError: The template is missing or damaged, or the folder cannot be written.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(template, partial, ignore=shutil.ignore_patterns(_ORDER, TENSORS))
        (partial / TENSORS).write_bytes(_filled(template, vector))
        (partial / ABOUT).write_bytes(about)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    except OSError as error:
        raise HortusError(
            f"it cannot be written: {error.strerror or error}", where=str(directory)
        ) from error


def _filled(template: Path, vector: NDArray[np.float32]) -> bytes:
    try:
        order = json.loads((template / _ORDER).read_bytes())
        saved = safetensors.torch.load((template / TENSORS).read_bytes())
        ends = np.cumsum([saved[name].numel() for name in order])
        parts = np.split(vector, ends[:-1])
        tensors = saved | {
            name: torch.from_numpy(part.reshape(saved[name].shape))
            for name, part in zip(order, parts, strict=True)
        }
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise HortusError(
            "the adapter's layout is missing or damaged",
            where=str(template),
            remedy="Start the run's command again, which writes it again.",
        ) from error
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def add_base(directory: Path, model: Path) -> None:
    """Puts the base model into an adapter's folder: plain PEFT and transformers then open it by its path alone.

    Its weights are linked where the file system can, else copied; those of a GGUF file are written as float32. The
    adapter's configuration names the folder where it is now, so it is to be done again where the folder is moved.

    Args:
        directory: An adapter's folder, from `write_adapter`.
        model: The base model.

    Raises:
        UsageError: No class of transformers has the adapter's base model, or the folder holds one already.
        HortusError: It cannot be written.
    """
    target = directory / BASE
    config = json.loads((directory / _CONFIG).read_bytes())
    if not (target / "config.json").is_file() or config["task_type"] is None:
        raise UsageError(
            "only Hortus opens it: no class of transformers has such a head, or PEFT no name for the task",
            where=str(directory),
            remedy="Classify texts with task.head: sequence, whose adapters transformers and PEFT open.",
        )
    try:
        if gguf_file(model) is None:
            for file in weight_files(model):
                _link(model / file, target / file)
        else:
            _write_floats(target, model, config["task_type"])
        AutoTokenizer.from_pretrained(directory, local_files_only=True).save_pretrained(target)
        config["base_model_name_or_path"] = str(target.resolve())
        encoded = json.dumps(config, indent=2, sort_keys=True) + "\n"
        write_atomic(directory / _CONFIG, encoded.encode())
    except OSError as error:
        raise HortusError(
            f"it cannot be written: {error.strerror or error}", where=str(target)
        ) from error


def _link(file: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copy(file, target)


def _write_floats(target: Path, model: Path, task_type: str) -> None:
    kind = next(head.auto for head in HEADS if head.task_type == task_type)
    config = AutoConfig.from_pretrained(target, local_files_only=True)
    read = getattr(transformers, kind).from_pretrained(
        **transformers_source(model), config=config, dtype=torch.float32, local_files_only=True
    )
    plain = getattr(transformers, kind).from_config(
        config
    )  # the one that was read counts as quantised
    plain.load_state_dict(read.state_dict())
    save_file(_untied(plain), target / WEIGHTS, metadata={"format": "pt"})


def _untied(model: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - transformers has no types
    """Returns a model's weights, those that it has twice once."""
    seen: set[int] = set()
    weights = {}
    for name, weight in model.state_dict().items():
        if weight.data_ptr() not in seen:
            weights[name] = weight.contiguous()
        seen.add(weight.data_ptr())
    return weights
