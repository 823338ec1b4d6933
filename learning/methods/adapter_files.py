"""An adapter's folder written from the flat vector alone, without its base model.

A template is an adapter as PEFT saves it, with the order in which the vector's parts go into its tensors.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from peft import PeftModel

from hortus.learning.methods.base import ABOUT
from hortus.learning.methods.space import AdapterSpace
from hortus.runtime.errors import HortusError
from hortus.runtime.files import write_atomic

TENSORS = "adapter_model.safetensors"
_ORDER = "order.json"


def save_adapter(directory: Path, model: PeftModel) -> None:
    """Writes the adapter in PEFT's own format: complete, or not at all."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True)
    # PEFT's model card is a blank form that names this machine's folders.
    (partial / "README.md").unlink(missing_ok=True)
    config = partial / "adapter_config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(fields["target_modules"], list):
        fields["target_modules"].sort()  # a set in PEFT: another order in every process
    config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def write_template(directory: Path, model: PeftModel, space: AdapterSpace) -> None:
    """Writes a model's adapter as a template: complete, or not at all. The model's adapter is changed."""
    parts = enumerate(space.shapes.values())
    numbered = [np.full(int(np.prod(shape)), number, np.float32) for number, shape in parts]
    space.write(model, np.concatenate(numbered))
    save_adapter(directory, model)
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
