"""Adapters: the parameters that are trained, as PEFT modules and as one flat vector."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers.pytorch_utils import Conv1D

from hortus.learning.models.encoder import EncoderClassifier
from hortus.learning.passes.isolation import keep_apart
from hortus.protocol.plan import Adapter
from hortus.runtime.errors import UsageError

_HEAD = "head"


def attach(base: EncoderClassifier, adapter: Adapter, seed: int) -> PeftModel:
    """Adds an adapter to a base model; only its parameters, and the head's, are trainable.

    Args:
        base: Changed in place.
        adapter: Which adapter.
        seed: LoRA's A matrices are drawn from it, B is zero (Hu et al. 2021, Section 4.1).

    Raises:
        UsageError: The base model has no such layers, or PEFT cannot adapt them.
    """
    targets = DUMMY_TARGET_MODULES if adapter.kind == "head" else _targets(base, adapter)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=0.0,
        target_modules=targets,
        modules_to_save=[_HEAD],
        fan_in_fan_out=targets != DUMMY_TARGET_MODULES and _are_transposed(base, targets),
    )
    try:
        model = get_peft_model(base, config)
    except Exception as error:  # whatever PEFT says of an architecture that it does not know
        raise UsageError(
            f"PEFT cannot adapt a model of type {base.config.model_type!r} ({type(error).__name__})",
            where="adapter",
            remedy="Use another model; or `kind: head`, which trains the head alone."
            if adapter.kind != "head"
            else "Use another model.",
        ) from error
    keep_apart(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in _trainable(model):
            if ".lora_A." in name:
                bound = parameter.shape[1] ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return model


def _targets(base: EncoderClassifier, adapter: Adapter) -> list[str]:
    """Returns the full names of the linear layers that the plan means."""
    linear = [
        name
        for name, module in base.encoder.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if not known:
        raise UsageError(
            f"a model of type {base.config.model_type!r} has no linear layers that could be adapted",
            where="adapter.kind",
            remedy="Use `kind: head`, which trains the head alone.",
        )
    for target in adapter.targets:
        if target not in known:
            raise UsageError(
                f"the model has no linear layer {target!r}",
                where="adapter.targets",
                remedy=f"It has: {', '.join(known)}",
            )
    named = [name for name in linear if name.rpartition(".")[2] in adapter.targets]
    layers = {int(match[1]) for name in named if (match := re.search(r"\.(\d+)\.", name))}
    for layer in adapter.layers or ():
        if layer not in layers:
            raise UsageError(
                f"the model has no layer {layer}",
                where="adapter.layers",
                remedy=f"It has {min(layers)} to {max(layers)}."
                if layers
                else "Its layers have no numbers: leave `layers` out.",
            )
    if adapter.layers is not None:
        named = [
            name
            for name in named
            if (match := re.search(r"\.(\d+)\.", name)) and int(match[1]) in adapter.layers
        ]
    return [f"encoder.{name}" for name in named]


def _are_transposed(base: EncoderClassifier, targets: list[str]) -> bool:
    """Whether the layers are GPT-2's, whose weights are (in, out); PEFT tells of others itself."""
    return all(isinstance(base.get_submodule(name), Conv1D) for name in targets)


class AdapterSpace:
    """The flat vector of a model's trainable parameters, in the order of their sorted names.

    Args:
        model: Fixes names and shapes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.shapes = {name: tuple(parameter.shape) for name, parameter in _trainable(model)}
        self.dimension = sum(int(np.prod(shape)) for shape in self.shapes.values())

    def read(self, model: nn.Module) -> NDArray[np.float32]:
        """Returns the adapter, float32[d]."""
        parameters = [parameter.detach().reshape(-1) for _, parameter in _trainable(model)]
        vector: NDArray[np.float32] = torch.cat(parameters).to(torch.float32).cpu().numpy()
        return vector

    def write(self, model: nn.Module, vector: NDArray[np.float32]) -> None:
        """Puts an adapter, float32[d], into the model."""
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise ValueError(
                f"an adapter is float32[{self.dimension}], not {vector.dtype}{list(vector.shape)}"
            )
        start = 0
        with torch.no_grad():
            for _, parameter in _trainable(model):
                piece = vector[start : start + parameter.numel()]
                parameter.copy_(torch.from_numpy(piece).reshape(parameter.shape))
                start += parameter.numel()


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


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    named = ((name, parameter) for name, parameter in model.named_parameters())
    yield from sorted((item for item in named if item[1].requires_grad), key=lambda item: item[0])
