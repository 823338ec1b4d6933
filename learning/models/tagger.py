"""Encoders with transformers' own head for a class of each token."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

from hortus.learning.models.base import Base
from hortus.learning.models.loading import load_encoder
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

_HEAD = "classifier"


def tagger(path: Path, precision: Precision, longest: int, tags: tuple[str, ...]) -> Base:
    """Reads an encoder and puts a head on it, which starts at 0.

    Args:
        path: Folder of the model.
        precision: Of the encoder; the head is float32.
        longest: Tokens that it must read at once.
        tags: Names of the head's outputs.

    Raises:
        UsageError: See `load_encoder`; or transformers has no such head of one layer for the architecture.
        HortusError: There is not enough memory for it.
    """
    encoder = load_encoder(path, precision, longest)
    config = encoder.config
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: number for number, tag in enumerate(tags)}
    model = _form(config)
    if model is None:
        raise UsageError(
            f"transformers has no head of one layer for the tokens of a model of type {config.model_type!r}",
            where=str(path / "config.json"),
            remedy="Use an encoder such as BERT, RoBERTa, DistilBERT, DeBERTa, ALBERT or ELECTRA.",
        )
    setattr(model, model.base_model_prefix, encoder)
    head = nn.Linear(int(config.hidden_size), len(tags))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    setattr(model, _HEAD, head)
    model.eval()
    return Base(model, encoder, f"{model.base_model_prefix}.", (_HEAD,))


def _form(config: PretrainedConfig) -> PreTrainedModel | None:
    """Returns transformers' own class without weights; None where its head is not one layer.

    A head of several layers that started at 0 would stay there.
    """
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return None
    with torch.device("meta"):
        model = AutoModelForTokenClassification.from_config(config)
    encoder = f"{model.base_model_prefix}."
    head = {name for name, _ in model.named_parameters() if not name.startswith(encoder)}
    return model if head == {f"{_HEAD}.weight", f"{_HEAD}.bias"} else None
