"""A text encoder with a classifier on its pooled states."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from hortus.learning.models.base import Base
from hortus.learning.models.layered import enter, layers_of, run
from hortus.learning.models.loading import load_encoder
from hortus.protocol.plan import Precision

# Logits are this many times the cosine-like products of unit embeddings and the head's rows.
EMBEDDING_SCALE = 8.0


class EncoderClassifier(nn.Module):
    """A transformer encoder, masked mean pooling to a unit vector, and a linear head that starts at 0.

    Args:
        encoder: A `transformers` encoder.
        classes: Number of labels.
    """

    base_model_prefix = (
        "encoder"  # PEFT asks for it where transformers stores weights in another form
    )

    def __init__(self, encoder: PreTrainedModel, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.config: Any = encoder.config
        self.head = nn.Linear(int(self.config.hidden_size), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def layers(self) -> int:
        """Layers, one after another, that `enter` can go through."""
        return layers_of(self.encoder)

    pools = True

    def reaches(self, depth: int) -> bool:
        """Whether so many layers can be run ahead."""
        return depth <= self.layers

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns what the head is given, float32 (records, hidden).

        Args:
            input_ids: int64 (records, tokens).
            attention_mask: int64 (records, tokens), 0 where padded.
            token_type_ids: int64 (records, tokens), which text each is of; None: all of one.
        """
        told = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:  # an encoder that knows no kinds of texts is told none
            told["token_type_ids"] = token_type_ids
        encoded = self.encoder(**told)
        return _pool(encoded.last_hidden_state, attention_mask)

    def enter(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        depth: int,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `hortus.learning.models.layered.enter`."""
        return enter(self.encoder, input_ids, attention_mask, depth, token_type_ids)

    def forward(
        self,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        depth: int = 0,
        embeddings: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Returns `logits`, float32 (records, classes), of tokens, of states or of embeddings.

        Args:
            attention_mask: int64 (records, tokens), 0 where padded; not with `embeddings`.
            input_ids: int64 (records, tokens).
            states: What `enter` returned for `depth`.
            depth: Frozen layers, which `states` has gone through.
            embeddings: What `embed` returned.
            token_type_ids: int64 (records, tokens), which text each is of; None: all of one.
        """
        if embeddings is None:
            assert attention_mask is not None  # noqa: S101 - goes with tokens and states
            if states is None and depth > 0:
                assert input_ids is not None  # noqa: S101 - one of the three is given
                with torch.no_grad():
                    states = self.enter(input_ids, attention_mask, depth, token_type_ids)
            if states is not None:
                states = run(self.encoder, states, attention_mask, slice(depth, None))
                embeddings = _pool(states, attention_mask)
            else:
                assert input_ids is not None  # noqa: S101 - one of the three is given
                embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        return SequenceClassifierOutput(logits=self.head(embeddings))


def classifier(path: Path, precision: Precision, longest: int, classes: int) -> Base:
    """Reads an encoder and puts a classifier's head on it.

    Args:
        path: Folder of the model.
        precision: Of the encoder; the head is float32.
        longest: Tokens that it must read at once.
        classes: Number of labels.

    Raises:
        UsageError: See `load_encoder`.
        HortusError: There is not enough memory for it.
    """
    model = EncoderClassifier(load_encoder(path, precision, longest), classes)
    return Base(model, model.encoder, "encoder.", ("head",), model)


def _pool(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the mean over real tokens, as a vector of one length, float32 (records, hidden)."""
    # Overwritten, not multiplied by 0: padding may have overflowed where words have not.
    real = attention_mask.unsqueeze(-1)
    words = torch.where(real.bool(), states, 0)
    words = words.to(torch.promote_types(words.dtype, torch.float32))
    mean = words.sum(1) / real.sum(1).clamp(min=1)
    return EMBEDDING_SCALE * nn.functional.normalize(mean, dim=-1)
