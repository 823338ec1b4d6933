"""What a gradient engine is: whatever says what the gradient of each unit in a pass is.

Which records share a pass, clipping, the exact sum and the noise are the same for all engines
(`hortus.privacy.gradients.engine`).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from hortus.protocol.section import Kind

if TYPE_CHECKING:
    import torch
    from torch import nn


class LossBatch(Protocol):
    """The records of one pass, whose losses can be computed, one for each; its units are whole."""

    @property
    def units(self) -> "torch.Tensor":
        """Number of each record's unit within the batch, int64 (records,), from 0 without gaps."""
        ...

    def losses(self, model: "nn.Module") -> "torch.Tensor":
        """Returns each record's loss, shape (records,)."""
        ...


PassGradients: TypeAlias = Callable[[LossBatch], "torch.Tensor"]


class GradientEngine(Kind):
    """Computes the gradient of each unit of a pass.

    Attributes:
        several_at_once: Whether several threads may compute a pass each at the same time.
    """

    several_at_once: ClassVar[bool] = False

    @abstractmethod
    def attached(
        self, model: "nn.Module", names: Sequence[str]
    ) -> AbstractContextManager[PassGradients]:
        """Prepares a model; within the block, what it gives computes gradients.

        That is a function of a pass. It returns the gradients of the pass's units in their order, float32 or
        float64 (units, d): Σ of the gradients of the unit's records, parameters in the order of `names`, one
        after the other. It leaves no parameter with a `grad`, and raises UsageError where a parameter's gradients
        cannot be told apart by unit.

        Args:
            model: In training mode. The first dimension of its activations is the record.
            names: Of its trainable parameters, sorted.
        """
