"""The gradients of one pass's units, as its backward pass finds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

from hortus.privacy.gradients.units import Units


@dataclass(frozen=True, slots=True)
class Recorder:
    """Collects the gradients of one pass.

    Attributes:
        units: Of the pass.
        gradients: By the parameter's name, (units, size).
    """

    units: Units
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, name: str, gradients: torch.Tensor) -> None:
        """Takes what one use of a parameter contributes, (records, size)."""
        summed = self.units.summed(gradients)
        before = self.gradients.get(name)
        self.gradients[name] = summed if before is None else before + summed


# Of the pass that this thread is computing.
_recorder: ContextVar[Recorder] = ContextVar("recorder")


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Has the pass that this thread computes within the block recorded."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


def current() -> Recorder:
    """Returns the recorder of the pass that this thread computes."""
    return _recorder.get()
