"""Base models as their folders say, or not at all: what is missing, renamed or not finite is refused by name."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING
from transformers.utils import logging as transformers_logging

from hortus.learning.models.folder import (
    Tensor,
    config_place,
    gguf_file,
    read_config,
    read_tensors,
    transformers_source,
    unreadable,
)
from hortus.learning.models.memory import available, in_gib
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError, in_one_line
from hortus.runtime.surroundings import out_of_memory

_DTYPES = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}
_LOCAL = {"local_files_only": True, "trust_remote_code": False}
# What makes a model compute something else each time.
_RANDOM = ("drop", "jitter", "noise")
# Layers that share their weights, as ALBERT's do, are more than the file has tensors.
_LAYERS_OF_A_TENSOR = 8
_COUNTS = ("layers", "n_layer", "hidden_groups", "_blocks")
_FAR_BEYOND = 16  # what is less is told by the names of the weights that are missing
_OTHER_CONFIG = "Weights and config.json are of different models: copy the whole folder of one."
_POOLER = "pooler."  # made for another pooling than ours, and taken off
_WRAPPERS = ("module.", "_orig_mod.", "model._orig_mod.", "base_model.model.")
# Buffers that older versions of transformers saved, and no model reads.
_OLD_BUFFERS = ("position_ids", "token_type_ids", ".attn.bias", ".masked_bias", ".inv_freq")


def pooler_of(model: PreTrainedModel) -> frozenset[str]:
    """Returns the names of the weights of a model's pooler, a part that checkpoints of masked words lack."""
    prefix = f"{model.base_model_prefix}."
    names = (name for name, _ in model.named_parameters())
    return frozenset(name for name in names if name.removeprefix(prefix).startswith(_POOLER))


@dataclass(frozen=True, slots=True)
class Form:
    """What transformers is to make of a model's files.

    Attributes:
        kind: The class that reads them, such as `AutoModel`.
        own: Of a model that was read, the names of the weights that its files may lack, or hold for another task.
    """

    kind: Any
    own: Callable[[PreTrainedModel], frozenset[str]] = lambda _: frozenset()


class Loaded(NamedTuple):
    """A model, and the weights that its files lack, or hold in other shapes: all of them the form's own."""

    model: PreTrainedModel
    lacking: frozenset[str]


ReadBy = Callable[[PretrainedConfig], Form]


def load_encoder(path: Path, precision: Precision, longest: int) -> PreTrainedModel:
    """Reads whatever turns a text into hidden states: of an encoder and a decoder, the encoder alone.

    Arguments and errors are those of `load_model`.
    """
    loaded = load_model(path, precision, longest, _encoder).model
    if getattr(loaded, "pooler", None) is not None:
        loaded.pooler = None
    config = loaded.config
    has_decoder = config.is_encoder_decoder and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING
    encoder: PreTrainedModel = loaded.get_encoder() if has_decoder else loaded
    return encoder


def load_model(path: Path, precision: Precision, longest: int, read_by: ReadBy) -> Loaded:
    """Reads a base model, without dropout, so that steps repeat.

    Args:
        path: Folder of the model.
        precision: What it computes in.
        longest: Tokens that it must read at once.
        read_by: Returns how a model of a configuration is read; it may set the configuration's labels.

    Raises:
        UsageError: The model cannot be read, is not what its folder says, or does not read as many tokens
            at once.
        HortusError: There is not enough memory for it.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    fields, tensors = read_config(path), read_tensors(path)
    try:
        config = _config(path)
        form = read_by(config)
        _check_size(config, form.kind, tensors, precision, path)
        model, report = _load(path, config, form.kind, precision)
    except UsageError:
        raise
    except Exception as error:  # whatever a library says of a damaged folder
        if (no_memory := out_of_memory(error)) is not None:
            raise no_memory from error
        raise _explained(path, fields, error) from error
    lacking = _check_report(model, report, tensors, path, form.own(model))
    _check_reads_tokens(model, path)
    _check_finite(model.named_parameters(), path)
    _check_finite(model.named_buffers(), path)
    _check_length(model, longest)
    return Loaded(model, lacking)


def _config(path: Path) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(**transformers_source(path), **_LOCAL)
    for name, value in vars(config).items():
        if isinstance(value, float) and any(word in name for word in _RANDOM):
            setattr(config, name, 0.0)
    return config


def _load(
    path: Path,
    config: PretrainedConfig,
    kind: Any,  # noqa: ANN401 - a class of transformers
    precision: Precision,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    with redirect_stderr(
        StringIO()
    ):  # bars that nothing else switches off, of what is de-quantised
        model, report = kind.from_pretrained(
            **transformers_source(path),
            config=config,
            use_safetensors=None if gguf_file(path) else True,
            dtype=_DTYPES[precision],
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **_LOCAL,
        )
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config  # of a GGUF file, which is de-quantised
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # some heads have one that no configuration tells of
            module.p = 0.0
    model.eval()
    return model, report


def _check_size(
    config: PretrainedConfig,
    kind: Any,  # noqa: ANN401 - a class of transformers
    tensors: Mapping[str, Tensor],
    precision: Precision,
    path: Path,
) -> None:
    """Refuses, before any of it is made, a model beyond the memory, or beyond what its files hold."""
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    for name, value in vars(config).items():
        is_count = name.endswith(_COUNTS) and not name.startswith("max_") and isinstance(value, int)
        if is_count and value > _LAYERS_OF_A_TENSOR * len(tensors):
            raise UsageError(
                f"config.json says {name}: {value}, and the files hold {len(tensors)} weights",
                where=str(path),
                remedy=_OTHER_CONFIG,
            )
    with torch.device("meta"):  # takes no memory
        described = sum(weight.numel() for weight in kind.from_config(config).parameters())
    if described > _FAR_BEYOND * numbers:
        raise UsageError(
            f"config.json tells of a model of {described:,} numbers, and the files hold {numbers:,}",
            where=str(path),
            remedy=_OTHER_CONFIG,
        )
    free = available(torch.device("cpu"))
    if (needed := described * _DTYPES[precision].itemsize) > free:
        raise UsageError(
            f"the model takes {in_gib(needed)} of memory, and {in_gib(free)} are free",
            where=str(path),
            remedy="Use a smaller model, or training.precision: bfloat16, or a machine with more memory.",
        )


def _encoder(config: PretrainedConfig) -> Form:
    """Returns how the model without a head is read; its pooler, made for another pooling than ours, may be missing."""
    has_own = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    return Form(AutoModelForTextEncoding if has_own else AutoModel, pooler_of)


def _explained(path: Path, fields: Mapping[str, Any], error: Exception) -> UsageError:
    """Returns why a model was not read, in terms of its config.json."""
    kind = fields.get("model_type")
    if "auto_map" in fields and "trust_remote_code" in str(error):
        return UsageError(
            f"the model is of a custom architecture ({in_one_line(str(kind), 40)}), with code of its own",
            where=config_place(path),
            remedy="Hortus runs no code from a model's folder: use a model that transformers has the code for.",
        )
    return unreadable(path, "model", error)


def _check_report(
    model: PreTrainedModel,
    report: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
    own: Collection[str],
) -> frozenset[str]:
    """Refuses a model of which transformers has made something up, or left something out.

    Returns the names of what it has made up of the form's own weights.
    """
    missing = sorted(report["missing_keys"])
    unexpected = sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"])
    lacking = frozenset(missing) | {name for name, *_ in mismatched}
    if others := [one for one in mismatched if one[0] not in own]:
        name, stored, expected = others[0]
        raise UsageError(
            f"{_named(others)} of other shapes than config.json says: "
            f"{in_one_line(name, 100)} is {list(stored)}, not {list(expected)}",
            where=_place(path, tensors, [name]),
            remedy=_OTHER_CONFIG,
        )
    if absent := [name for name in missing if name not in own]:
        raise UsageError(
            f"{_named(absent)} missing: {_few(absent)}",
            where=_place(path, tensors, []),
            remedy=_remedy_of_missing(unexpected),
        )
    _refuse_left_over(model.base_model, unexpected, tensors, path)
    if report["error_msgs"]:
        raise unreadable(path, "model", ValueError(str(report["error_msgs"][0])))
    return lacking


def _refuse_left_over(
    backbone: PreTrainedModel,
    unexpected: Collection[str],
    tensors: Mapping[str, Tensor],
    path: Path,
) -> None:
    """Refuses weights of the backbone's own parts that it has no place for; heads of other tasks are dropped."""
    children = {name for name, _ in backbone.named_children()}
    prefix = f"{backbone.base_model_prefix}."
    own = [
        name
        for name in unexpected
        if name.removeprefix(prefix).partition(".")[0] in children
        and not name.removeprefix(prefix).startswith(_POOLER)
        and not name.endswith(_OLD_BUFFERS)
    ]
    if own:
        raise UsageError(
            f"{_named(own)} not part of the model that config.json describes: {_few(own)}",
            where=_place(path, tensors, own),
            remedy="Without them it would be another model: take the config.json that belongs to the weights.",
        )


def _remedy_of_missing(unexpected: Collection[str]) -> str:
    for prefix in _WRAPPERS:
        if any(name.startswith(prefix) for name in unexpected):
            return (
                f"The names in the file begin with {prefix!r}, of a wrapper that the model was saved in: save "
                "what is inside it, as in model.module.save_pretrained(FOLDER)."
            )
    if unexpected:
        return (
            f"The files hold others that nothing asks for ({_few(unexpected)}): they belong to another config.json, "
            "or names were changed."
        )
    return "transformers would make them up at random, and others at each site: copy the whole model again."


def _named(names: Collection[Any]) -> str:
    return "a weight is" if len(names) == 1 else f"{len(names)} weights are"


def _few(names: Collection[str]) -> str:
    shown = ", ".join(in_one_line(name, 100) for name in list(names)[:3])
    return shown + (", …" if len(names) > 3 else "")


def _place(path: Path, tensors: Mapping[str, Tensor], names: Collection[str]) -> str:
    """Returns the file that a weight is in, or that all are in, or the folder."""
    files = {tensors[name].file for name in names if name in tensors}
    files = files or {tensor.file for tensor in tensors.values()}
    return str(path / files.pop()) if len(files) == 1 else str(path)


def _check_reads_tokens(encoder: PreTrainedModel, path: Path) -> None:
    embedding = None
    with suppress(Exception):  # whatever a model of images or sound says
        embedding = encoder.get_input_embeddings()
    width = getattr(encoder.config, "hidden_size", None)
    if not isinstance(embedding, nn.Embedding) or not isinstance(width, int):
        raise UsageError(
            f"a model of type {encoder.config.model_type!r} does not read tokens of a text",
            where=config_place(path),
            remedy="Hortus trains models of text, such as BERT, RoBERTa, T5, GPT-2 and Llama.",
        )


def _check_finite(named: Iterable[tuple[str, torch.Tensor]], path: Path) -> None:
    for name, tensor in named:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        # Extremes are NaN where anything is.
        if not (torch.isfinite(tensor.min()) and torch.isfinite(tensor.max())):
            count = int((~torch.isfinite(tensor)).sum())
            raise UsageError(
                f"{count} of the {tensor.numel():,} numbers of the weight {name} are NaN or infinite",
                where=str(path),
                remedy="Every gradient would be NaN, and only noise trained: use a checkpoint from before training "
                "diverged, or copy it again.",
            )


def longest_text(encoder: PreTrainedModel) -> int | None:
    """Returns how many tokens a model reads at most; None where nothing limits it."""
    limits = []
    for name, module in encoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and last in _POSITIONS:
            # RoBERTa's positions start after the padding index.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    config = encoder.config
    announced = getattr(config, "max_position_embeddings", None)
    with suppress(TypeError, AttributeError):
        is_relative = bool(getattr(config, "relative_attention", False))
        if isinstance(announced, int) and announced > 0 and not is_relative:
            limits.append(announced)
    return min(limits, default=None)


_POSITIONS = {"position_embeddings", "wpe", "embed_positions", "position_embedding", "pos_embed"}


def _check_length(encoder: PreTrainedModel, wanted: int) -> None:
    """A text longer than the position table would end the run in the middle, at one site."""
    longest = longest_text(encoder)
    if longest is not None and wanted > longest:
        raise UsageError(
            f"the model reads {longest} tokens at most, not {wanted}",
            where="task.max_length",
            remedy=f"Write {longest} or less, or use a model that reads longer texts.",
        )
