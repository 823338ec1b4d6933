"""Models with transformers' own heads: what `pipeline(…)` and `AutoPeftModelFor…` open, and nothing beside it."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto import modeling_auto

from hortus.learning.models.base import Base
from hortus.learning.models.decoder import Decoder
from hortus.learning.models.folder import config_place
from hortus.learning.models.layered import BehindHead, layers_of
from hortus.learning.models.loading import Form, load_model, pooler_of
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

_SEED = 16  # public, so that a head starts from the same bits at every site
_SPAN_ENDS = 2  # logits of a token as the start of an answer, and as its end


@dataclass(frozen=True, slots=True)
class HeadKind:
    """A kind of head.

    Attributes:
        auto: The class of transformers that reads models with it.
        known: The architectures that have it, by their configuration's class.
        task_type: What PEFT calls the task, and opens an adapter by; None where it has no name for it.
        does: What a model with it does.
        remedy: Which models have one.
    """

    auto: str
    known: Mapping[Any, Any]
    task_type: str | None
    does: str
    remedy: str


SEQUENCE = HeadKind(
    "AutoModelForSequenceClassification",
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "SEQ_CLS",
    "give a text classes",
    "Use BERT, RoBERTa, DeBERTa, ModernBERT, Llama, Qwen, GPT-2 or the like.",
)
TOKENS = HeadKind(
    "AutoModelForTokenClassification",
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    "TOKEN_CLS",
    "give each token a class",
    "Use an encoder such as BERT, RoBERTa, DistilBERT, DeBERTa, ALBERT, ELECTRA or ModernBERT.",
)
SPAN = HeadKind(
    "AutoModelForQuestionAnswering",
    modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    "QUESTION_ANS",
    "find an answer within a text",
    "Use an encoder such as BERT, RoBERTa, DistilBERT, DeBERTa, ALBERT, ELECTRA or ModernBERT.",
)
CAUSAL = HeadKind(
    "AutoModelForCausalLM",
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    "CAUSAL_LM",
    "predict the next token",
    "Use a decoder, such as Llama, Qwen, Gemma, Mistral, Phi or GPT-2.",
)
MASKED = HeadKind(
    "AutoModelForMaskedLM",
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
    None,
    "predict masked tokens",
    "Use an encoder such as BERT, RoBERTa, DistilBERT, DeBERTa, ALBERT, ELECTRA or ModernBERT.",
)
SEQ2SEQ = HeadKind(
    "AutoModelForSeq2SeqLM",
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "SEQ_2_SEQ_LM",
    "turn one text into another",
    "Use a model with an encoder and a decoder, such as T5 or BART.",
)
HEADS = (SEQUENCE, TOKENS, SPAN, CAUSAL, MASKED, SEQ2SEQ)
_OF_TASK = (SEQUENCE, TOKENS, SPAN)


def model_with_head(
    path: Path,
    precision: Precision,
    longest: int,
    kind: HeadKind,
    *,
    labels: Sequence[str] = (),
    problem_type: str | None = None,
) -> Base:
    """Reads a model with transformers' own head.

    `CAUSAL`, `MASKED` and `SEQ2SEQ` heads are the checkpoint's, and nothing of them is trained but what an adapter is
    beside. The others are trained whole. What the checkpoint lacks of them, or has for other labels, starts at 0 where
    it gives the labels' logits, and is drawn from a public seed before that.

    Args:
        path: Folder of the model.
        precision: Of the pretrained layers; what is trained whole is float32.
        longest: Tokens that it must read at once.
        kind: Its head.
        labels: Of `SEQUENCE` and `TOKENS`: the names of the outputs.
        problem_type: Of `SEQUENCE`, as transformers has it, such as `multi_label_classification`.

    Returns:
        The model; its module returns one of transformers' outputs, with `logits`.

    Raises:
        UsageError: See `load_model`; or transformers has no such head for the architecture.
        HortusError: There is not enough memory for it.
    """
    stored: dict[str, Any] = {}

    def read_by(config: PretrainedConfig) -> Form:
        _check_has_head(config, kind, path)
        stored.update(made_for=config.architectures, labels=dict(config.id2label))
        if kind in _OF_TASK:
            _name_outputs(config, labels, problem_type)
        return Form(getattr(transformers, kind.auto), _own if kind in _OF_TASK else _nothing)

    model, lacking = load_model(path, precision, longest, read_by)
    if kind is CAUSAL:
        _check_looks_back_only(model, path)
    if kind not in _OF_TASK:
        ahead = Decoder(model) if kind is CAUSAL else None
        return Base(model, model, "", (), ahead, task_type=kind.task_type)
    same_labels = kind is SPAN or stored["labels"] == model.config.id2label
    same = same_labels and type(model).__name__ in (stored["made_for"] or ())
    of_labels = _of_labels(model, getattr(transformers, kind.auto), kind)
    return _of_task(model, kind, lacking if same else lacking | of_labels, of_labels)


def _name_outputs(
    config: PretrainedConfig, labels: Sequence[str], problem_type: str | None
) -> None:
    """Writes the names of a head's outputs into a configuration, as transformers has them."""
    names = labels or [f"LABEL_{number}" for number in range(_SPAN_ENDS)]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = problem_type


def _of_task(
    model: PreTrainedModel, kind: HeadKind, fresh: frozenset[str], of_labels: frozenset[str]
) -> Base:
    """Gives the weights of a task's head their first values, and has the frozen layers before it run ahead."""
    _start(model, fresh, of_labels)
    heads = _modules(model, fresh | of_labels)
    for name in heads:
        head = model.get_submodule(name).float()
        head.register_forward_pre_hook(_in_float32, with_kwargs=True)
    if kind is SEQUENCE:
        _pool_by_mask(model)
    backbone = model.base_model
    prefix = "" if backbone is model else f"{model.base_model_prefix}."
    ahead = BehindHead(backbone) if layers_of(backbone) else None
    return Base(model, backbone, prefix, heads, ahead, kind.task_type)


def _check_has_head(config: PretrainedConfig, kind: HeadKind, path: Path) -> None:
    known = type(config) in kind.known
    if kind in (CAUSAL, MASKED):
        known = known and not config.is_encoder_decoder
    if kind is CAUSAL and type(config) in MASKED.known:  # an encoder, unless it says otherwise
        known = known and bool(getattr(config, "is_decoder", False))
    if not known:
        raise UsageError(
            f"a model of type {config.model_type!r} does not {kind.does}",
            where=config_place(path),
            remedy=kind.remedy,
        )
    starts = getattr(config, "decoder_start_token_id", None)
    if config.is_encoder_decoder and kind is not TOKENS and starts is None:
        raise UsageError(
            "decoder_start_token_id is missing, which says what the decoder starts from",
            where=config_place(path),
            remedy="Write what the model was pretrained with: for T5, the id of its padding token.",
        )


def _check_looks_back_only(model: PreTrainedModel, path: Path) -> None:
    """Refuses a model that sees the token which it is to predict."""
    first = torch.zeros(2, 1, dtype=torch.int64)
    tokens = torch.cat([first, torch.tensor([[0], [1]])], 1)
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, 0]
    if not torch.allclose(logits[0], logits[1], rtol=1e-2, atol=1e-3):
        raise UsageError(
            "it sees the tokens that it is to predict: its attention is not causal",
            where=config_place(path),
            remedy=CAUSAL.remedy,
        )


def _nothing(_: PreTrainedModel) -> frozenset[str]:
    return frozenset()


def _own(model: PreTrainedModel) -> frozenset[str]:
    """Returns the names of the weights that the model without a head does not have, and of the pooler's."""
    with torch.device("meta"):
        bare = {name for name, _ in AutoModel.from_config(model.config).named_parameters()}
    prefix = f"{model.base_model_prefix}."
    names = (name for name, _ in model.named_parameters())
    return pooler_of(model) | {name for name in names if name.removeprefix(prefix) not in bare}


def _of_labels(model: PreTrainedModel, auto: Any, kind: HeadKind) -> frozenset[str]:  # noqa: ANN401 - transformers' own
    """Returns the names of the weights that there are more of where there are more labels."""
    own = _own(model)
    if kind is SPAN:  # always two
        return frozenset(
            n for n, p in model.named_parameters() if n in own and len(p) == _SPAN_ENDS
        )
    config = deepcopy(model.config)
    config.num_labels = len(model.config.id2label) + 1
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in auto.from_config(config).named_parameters()}
    return frozenset(n for n, p in model.named_parameters() if n in own and p.shape != shapes[n])


def _start(model: PreTrainedModel, fresh: frozenset[str], of_labels: frozenset[str]) -> None:
    """Gives weights their first values: 0 to the labels' logits, and to what is before them, from a public seed.

    Uniform with transformers' standard deviation, by exact products: no processor's logarithm is in it.
    """
    generator = np.random.default_rng(_SEED)
    bound = 3**0.5 * float(getattr(model.config, "initializer_range", None) or 0.02)
    for name, parameter in sorted(model.named_parameters()):
        if name not in fresh:
            continue
        norm = parameter.dim() == 1 and name.endswith("weight")
        start = np.full(parameter.shape, float(norm))
        if parameter.dim() > 1 and name not in of_labels:
            start = (
                generator.integers(-(2**23), 2**23, parameter.shape, endpoint=True) / 2**23 * bound
            )
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(start))


def _modules(model: PreTrainedModel, names: frozenset[str]) -> tuple[str, ...]:
    """Returns the modules that hold weights: of a head the whole, of a pooler in the backbone the pooler."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    found = set()
    for name in names:
        inner = name.removeprefix(prefix) if prefix else name
        first = inner.partition(".")[0]
        found.add(first if inner == name else prefix + first)
    return tuple(sorted(found))


def _in_float32(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What is trained whole is float32, whatever the layers before it compute in."""
    return tuple(map(_wide, args)), {name: _wide(value) for name, value in kwargs.items()}


def _wide(value: Any) -> Any:  # noqa: ANN401 - arguments of any module
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _pool_by_mask(model: PreTrainedModel) -> None:
    """Has a model that classifies by its last token find it by the mask.

    transformers finds it by the ids: the last that is not the padding token, or the end token. A tokenizer may have
    one token for both, none for either, and a text may hold any.
    """
    head = "score" if hasattr(model, "score") else "classification_head"
    if hasattr(model, head):
        model.forward = partial(_pooled, model, head)


def _pooled(
    model: PreTrainedModel,
    head: str,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **more: Any,  # noqa: ANN401 - transformers' own
) -> SequenceClassifierOutput:
    """Returns logits of the last real token of each text, (records, labels); padding is on the right."""
    more.pop("labels", None)
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = _shifted(model, input_ids)
    states = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more
    ).last_hidden_state
    last = attention_mask.sum(1) - 1
    records = torch.arange(len(states), device=states.device)
    return SequenceClassifierOutput(logits=getattr(model, head)(states[records, last]))


def _shifted(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Returns what the decoder is given where a text is to be classified: the text, one token later."""
    shifted = input_ids.roll(1, 1)
    shifted[:, 0] = model.config.decoder_start_token_id
    return shifted
