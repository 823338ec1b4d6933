"""The gradients of one pass's units, as its backward pass finds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Recorder:
    """Collects the gradients of one pass.

    Attributes:
        unit: int64 (records,), each record's unit.
        units: Number of units.
        gradients: By the parameter's name, (units, size).
    """

    unit: torch.Tensor
    units: int
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Records in the pass."""
        return len(self.unit)

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Takes what one use of a parameter contributes, (records, size)."""
        if self.units == self.records:
            summed = gradients[torch.argsort(self.unit)]
        else:
            summed = gradients.new_zeros(self.units, gradients.shape[1])
            summed.index_add_(0, self.unit, gradients)
        before = self.gradients.get(name)
        self.gradients[name] = summed if before is None else before + summed


# Of the pass that this thread is computing.
_recorder: ContextVar[Recorder] = ContextVar("recorder")


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Has the passes that this thread computes within the block recorded."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def current() -> Recorder:
    """Returns the recorder of the pass that this thread computes."""
    return _recorder.get()
