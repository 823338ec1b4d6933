"""PEFT's models, as methods make them: which layers, which heads, and products that keep records apart."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from hortus.learning.methods.space import trainable
from hortus.learning.models.base import Base
from hortus.learning.models.switch import let_switch_off
from hortus.learning.passes.isolation import keep_apart
from hortus.runtime.errors import UsageError


def settings(base: Base, **own: Any) -> LoraConfig:  # noqa: ANN401 - PEFT's
    """Returns PEFT's settings of an adapter of the LoRA family, without dropout, the heads trained beside it."""
    return LoraConfig(lora_dropout=0.0, modules_to_save=list(base.heads) or None, **own)


def adapted(base: Base, config: PeftConfig) -> nn.Module:
    """Has PEFT add an adapter, and keeps the records of a pass apart.

    Raises:
        UsageError: PEFT does not know the architecture.
    """
    try:
        model: nn.Module = get_peft_model(base.module, config)
    except Exception as error:  # whatever PEFT says of an architecture that it does not know
        raise UsageError(
            f"PEFT cannot adapt a model of type {base.config.model_type!r} ({type(error).__name__})",
            where="adapter",
            remedy="Use another model; or `kind: head`, which trains the head alone.",
        ) from error
    # Not before: PEFT would choose a class of its own, and say which heads are trained.
    config.task_type = base.task_type
    keep_apart(model)
    let_switch_off(model)
    return model


def needs_head(base: Base, kind: str) -> None:
    """Refuses to train the heads alone where there are none.

    Raises:
        UsageError: The task has no head of its own.
    """
    if not base.heads:
        raise UsageError(
            f"the task trains no head, so `kind: {kind}` would train nothing",
            where="adapter.kind",
            remedy="Use `kind: lora`.",
        )


def draw_down_projections(model: nn.Module, seed: int) -> None:
    """Draws LoRA's A matrices, each uniform within ±1/√(its inputs), from a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainable(model):
            if ".lora_A." in name:
                bound = parameter.shape[1] ** -0.5
                parameter.uniform_(-bound, bound, generator=generator)


def linear_layers(base: Base, targets: Sequence[str], layers: Sequence[int] | None) -> list[str]:
    """Returns the full names of the linear layers that a plan means.

    Args:
        base: The model.
        targets: Last parts of their names.
        layers: Numbers of the transformer layers that they are in; None: all.

    Raises:
        UsageError: The model has no such layers.
    """
    linear = [
        name
        for name, module in base.backbone.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if not known:
        raise UsageError(
            f"a model of type {base.config.model_type!r} has no linear layers that could be adapted",
            where="adapter.kind",
            remedy="Use `kind: head`, which trains the head alone.",
        )
    for target in targets:
        if target not in known:
            raise UsageError(
                f"the model has no linear layer {target!r}",
                where="adapter.targets",
                remedy=f"It has: {', '.join(known)}",
            )
    named = [name for name in linear if name.rpartition(".")[2] in targets]
    numbers = {int(match[1]) for name in named if (match := re.search(r"\.(\d+)\.", name))}
    for layer in layers or ():
        if layer not in numbers:
            raise UsageError(
                f"the model has no layer {layer}",
                where="adapter.layers",
                remedy=f"It has {min(numbers)} to {max(numbers)}."
                if numbers
                else "Its layers have no numbers: leave `layers` out.",
            )
    if layers is not None:
        named = [
            name
            for name in named
            if (match := re.search(r"\.(\d+)\.", name)) and int(match[1]) in layers
        ]
    _refuse_tied(base, named)
    return [base.prefix + name for name in named]


def _refuse_tied(base: Base, names: Sequence[str]) -> None:
    """Refuses the layer that gives the logits of tokens where it is the embedding too."""
    embedding = base.backbone.get_input_embeddings().weight
    for name in names:
        if base.backbone.get_submodule(name).weight is embedding:
            raise UsageError(
                f"the layer {name} shares its weights with the embedding: merged, an adapter of the one would change "
                "the other",
                where="adapter.targets",
                remedy=f"Leave {name.rpartition('.')[2]} out.",
            )


def are_transposed(base: Base, targets: Sequence[str]) -> bool:
    """Whether the layers are GPT-2's, whose weights are (in, out); PEFT tells of others itself."""
    return all(isinstance(base.module.get_submodule(name), Conv1D) for name in targets)
