"""Decoders with the layer that says which token comes next."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from hortus.learning.models.base import Base
from hortus.learning.models.loading import load_model
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError


def language_model(path: Path, precision: Precision, longest: int) -> Base:
    """Reads a decoder; nothing is added to it, so there is no head to train.

    Args:
        path: Folder of the model.
        precision: What it computes in.
        longest: Tokens that it must read at once.

    Raises:
        UsageError: See `load_model`; or it does not predict the next token.
        HortusError: There is not enough memory for it.
    """

    def read_by(config: PretrainedConfig) -> Any:  # noqa: ANN401 - transformers has no types
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
            raise UsageError(
                f"a model of type {config.model_type!r} does not predict the next token",
                where=str(path / "config.json"),
                remedy="Use a decoder, such as Llama, Qwen, Gemma, Mistral, Phi or GPT-2.",
            )
        return AutoModelForCausalLM

    model = load_model(path, precision, longest, read_by)
    return Base(model, model, "", ())
