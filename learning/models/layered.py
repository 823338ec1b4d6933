"""Encoders whose layers are run one after another: their frozen ones, once for each record."""

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

# Encoders that are embeddings and then `encoder.layer`, each layer a function of states and mask.
_LAYERED = ("bert", "roberta", "xlm-roberta", "camembert")


def layers_of(encoder: PreTrainedModel) -> int:
    """Returns how many layers `enter` can go through.

    An architecture whose layers are not known to be functions of states and mask counts as having none.
    """
    if encoder.config.model_type not in _LAYERED or encoder.config.is_decoder:
        return 0
    return len(encoder.encoder.layer)


def enter(
    encoder: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    depth: int,
    token_type_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the hidden states that enter layer `depth`, (records, tokens, hidden), 0 where padded.

    Args:
        encoder: One that has layers.
        input_ids: int64 (records, tokens).
        attention_mask: int64 (records, tokens), 0 where padded.
        depth: Layers to go through, at most `layers_of`.
        token_type_ids: int64 (records, tokens), which text each is of; None: all of one.
    """
    told = {"input_ids": input_ids}
    if token_type_ids is not None:
        told["token_type_ids"] = token_type_ids
    states: torch.Tensor = run(encoder, encoder.embeddings(**told), attention_mask, slice(depth))
    return torch.where(attention_mask.unsqueeze(-1).bool(), states, 0)


def run(
    encoder: PreTrainedModel, states: torch.Tensor, attention_mask: torch.Tensor, layers: slice
) -> torch.Tensor:
    """Sends hidden states through some layers, with the mask that the encoder itself makes."""
    mask = create_bidirectional_mask(
        config=encoder.config, inputs_embeds=states, attention_mask=attention_mask
    )
    for layer in encoder.encoder.layer[layers]:
        states = layer(states, mask)
    return states


class BehindHead:
    """Runs ahead the frozen layers of an encoder that is inside a model with a head of transformers'.

    From now on the encoder also takes `states`, what `enter` returned, and `depth`, the layers they have gone through.

    Args:
        encoder: One that has layers; changed in place.
    """

    pools = False

    def __init__(self, encoder: PreTrainedModel) -> None:
        self._encoder = encoder
        self.layers = layers_of(encoder)
        encoder.forward = partial(self._forward, encoder.forward)

    def reaches(self, depth: int) -> bool:
        """Whether so many layers can be run ahead."""
        return depth <= self.layers

    def enter(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        depth: int,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `enter`."""
        return enter(self._encoder, input_ids, attention_mask, depth, token_type_ids)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The head is given no vector for each record."""
        raise NotImplementedError

    def _forward(
        self,
        plain: Any,  # noqa: ANN401 - transformers' own forward
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        depth: int = 0,
        **more: Any,  # noqa: ANN401 - transformers' own arguments
    ) -> Any:  # noqa: ANN401 - transformers' own output
        if depth == 0:
            return plain(input_ids, attention_mask, token_type_ids, **more)
        assert attention_mask is not None  # noqa: S101 - goes with tokens and states
        if states is None:
            assert input_ids is not None  # noqa: S101 - one of the two is given
            with torch.no_grad():
                states = self.enter(input_ids, attention_mask, depth, token_type_ids)
        states = run(self._encoder, states, attention_mask, slice(depth, None))
        pooler = getattr(self._encoder, "pooler", None)
        return BaseModelOutputWithPooling(states, None if pooler is None else pooler(states))
