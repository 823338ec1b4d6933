"""What a method of fine-tuning is: which parameters are trained, and where they go in a model."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from hortus.protocol.section import Kind

if TYPE_CHECKING:
    from torch import nn

    from hortus.learning.models.base import Base

ABOUT = "hortus.json"
"""What a run says of an adapter, in the adapter's folder."""


class Method(Kind):
    """The base of every method. Its file imports no PyTorch before a model is there."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is trained, for whoever approves a plan."""

    @abstractmethod
    def attach(self, base: Base, seed: int) -> nn.Module:
        """Adds the adapter to a base model; only its parameters, and the heads', are trainable.

        Args:
            base: Changed in place.
            seed: What it starts from is drawn from it.

        Returns:
            The adapted model, a `peft.PeftModel`.

        Raises:
            UsageError: It cannot be added to this model.
        """

    def frozen_layers(self, layers: int) -> int:  # noqa: ARG002 - others do
        """Returns how many of a model's first layers stay frozen, of so many; 0 where that is not known."""
        return 0

    @property
    def trains_heads_alone(self) -> bool:
        """Whether nothing but the heads is trained."""
        return False
