"""A base model as tasks and adapters see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel


class RunsAhead(Protocol):
    """A model whose frozen layers can be run once for each record, and what they return be kept."""

    @property
    def pools(self) -> bool:
        """Whether the head is given one vector for each record, which `embed` returns."""
        ...

    @property
    def layers(self) -> int:
        """Layers, one after another, that `enter` can go through."""
        ...

    def reaches(self, depth: int) -> bool:
        """Whether so many layers, at least one, can be run ahead, and nothing changes."""
        ...

    def enter(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, depth: int
    ) -> torch.Tensor:
        """Returns the hidden states that enter layer `depth`, (records, tokens, hidden), 0 where padded."""
        ...

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns what the head is given, float32 (records, hidden)."""
        ...


@dataclass(frozen=True, slots=True)
class Base:
    """A base model with the task's head on it.

    Attributes:
        module: What is trained: its arguments are `input_ids` and `attention_mask`.
        backbone: The pretrained layers in it, beside which adapters go.
        prefix: Where the backbone is in the module, such as `encoder.`; empty where it is the module.
        heads: Names of the modules that are trained whole, beside any adapter.
        ahead: How frozen layers are run ahead; None where that is not known of this model.
        task_type: What PEFT calls the task, such as `SEQ_CLS`; None where no class of transformers is the module.
    """

    module: nn.Module
    backbone: PreTrainedModel
    prefix: str
    heads: tuple[str, ...]
    ahead: RunsAhead | None = None
    task_type: str | None = None

    @property
    def config(self) -> Any:  # noqa: ANN401 - transformers has no types
        """The backbone's `config.json`."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return torch.device(self.backbone.device)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return int(self.backbone.get_input_embeddings().weight.shape[0])

    @property
    def segments(self) -> int:
        """Kinds of texts that it is told apart by `token_type_ids`; 0 where it takes none."""
        return int(getattr(self.config, "type_vocab_size", 0) or 0)

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts, which take the tokens of all records of a pass together."""
        return any("expert" in name for name, _ in self.backbone.named_parameters())


def default_device() -> torch.device:
    """Returns the first GPU where there is one, and the processor elsewhere."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
