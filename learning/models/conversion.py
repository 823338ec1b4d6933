"""Pickled weights written as safetensors, without running what a pickle may hold."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hortus.learning.models.folder import INDEX, WEIGHTS
from hortus.runtime.errors import UsageError, in_one_line
from hortus.runtime.surroundings import out_of_memory

_PICKLED = "pytorch_model.bin"
_PICKLED_INDEX = "pytorch_model.bin.index.json"


def convert(path: Path) -> Path:
    """Writes the weights of pytorch_model.bin, or of its parts, to model.safetensors beside it.

    Args:
        path: Folder of a model.

    Returns:
        The file written.

    Raises:
        UsageError: There is nothing to convert, it is converted already, or it holds more than weights.
    """
    target = path / WEIGHTS
    for done in (target, path / INDEX):
        if done.exists():
            raise UsageError("it is there already: nothing is converted", where=str(done))
    weights: dict[str, torch.Tensor] = {}
    for file in _pickled(path):
        weights |= _read(file)
    partial = path / f".{WEIGHTS}.partial"
    try:
        save_file(_apart(weights), partial, metadata={"format": "pt"})
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _pickled(path: Path) -> list[Path]:
    index = path / _PICKLED_INDEX
    files = [path / _PICKLED]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            files = [path / Path(name).name for name in names]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError("this is no index of weights", where=str(index)) from error
    for file in files:
        if not file.is_file():
            raise UsageError("there is no such file", where=str(file))
    return files


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        # Builds tensors, and nothing else that a pickle may ask for.
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile pickle leads to
        raise out_of_memory(error) or UsageError(
            "it holds more than weights, or is damaged: it is not read, since pickles can run code",
            where=str(file),
            remedy="Save the weights alone where the model was made: model.save_pretrained(FOLDER).",
        ) from error
    if not isinstance(found, Mapping) or not all(_is_weight(*item) for item in found.items()):
        raise UsageError(
            "it is no mapping from names to weights",
            where=str(file),
            remedy="Save the weights alone where the model was made: model.save_pretrained(FOLDER).",
        )
    return dict(found)


def _is_weight(name: Any, value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    return isinstance(name, str) and isinstance(value, torch.Tensor)


def _apart(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the weights, each in memory of its own, as safetensors has them."""
    seen: set[int] = set()
    apart = {}
    for name, weight in weights.items():
        if weight.is_sparse or weight.is_quantized:
            raise UsageError(f"the weight {in_one_line(name, 100)!r} is sparse or quantised")
        storage = weight.untyped_storage()
        whole = weight.is_contiguous() and storage.nbytes() == weight.nbytes
        apart[name] = (
            weight if whole and storage.data_ptr() not in seen else weight.clone().contiguous()
        )
        seen.add(storage.data_ptr())
    return apart
