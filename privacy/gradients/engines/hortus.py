"""`hortus`: parameters that see every operation they take part in, in one backward pass for all units."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

from hortus.privacy.gradients.engines.base import GradientEngine, LossBatch, PassGradients
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


class HortusEngine(GradientEngine):
    """Hortus' own engine: it knows operations, not modules, and refuses by name what it does not know.

    Gradient checkpointing and half-precision activations are fine; a parameter may be used more than once,
    by whatever module.
    """

    several_at_once: ClassVar[bool] = True

    kind: Literal["hortus"] = "hortus"

    @contextmanager
    def attached(self, model: "nn.Module", names: Sequence[str]) -> Iterator[PassGradients]:
        """Prepares a model: see `GradientEngine.attached`."""
        import torch

        from hortus.privacy.gradients.recording import Recorder, recording
        from hortus.privacy.gradients.tracking import tracking
        from hortus.privacy.gradients.units import Units, backward

        parameters = dict(model.named_parameters())
        device = parameters[names[0]].device

        def gradients(batch: LossBatch) -> torch.Tensor:
            recorder = Recorder(Units.of(batch, device))
            with recording(recorder):
                backward(batch, model)
            for name in names:
                # One that was fetched before tracking began, as recurrent layers do, has a grad.
                if name not in recorder.gradients or parameters[name].grad is not None:
                    parameters[name].grad = None
                    raise UsageError(
                        "its gradient for one unit is not known, since the loss does not depend on it "
                        "in a way that can be followed",
                        where=name,
                        remedy="Freeze the parameter, or use it in the forward pass as it is.",
                    )
            return torch.cat([recorder.gradients.pop(name) for name in names], 1)

        with tracking(model, names):
            yield gradients
