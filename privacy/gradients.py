"""Per-unit clipped gradient sums, with Opacus's per-sample gradients as the engine.

DP-SGD (Abadi et al. 2016, Algorithm 1): each unit's gradient g over all trainable parameters
together is scaled by min(1, C / ‖g‖₂) before the sum. A unit's gradient is the sum of its records'.
Opacus computes those in float32; their float64 sum *is* g, and its norm, the factor and the sum
over units are float64, so that the bound ‖·‖₂ ≤ C holds for what is summed.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule

# A float64 norm of d terms is off by less than d·2⁻⁵³ relative; for d < 10⁷ this covers it.
_ROUNDING_MARGIN = 1 - 2e-9


class LossBatch(Protocol):
    """Some records whose losses can be computed, one for each; units of privacy are whole in it."""

    @property
    def units(self) -> torch.Tensor:
        """Number of each record's unit within the batch, int64 (records,), from 0 without gaps."""
        ...

    def losses(self, model: torch.nn.Module) -> torch.Tensor:
        """Returns each record's loss, shape (records,)."""
        ...


class PerUnitGradients:
    """Clipped sums of per-unit gradients of a model's trainable parameters.

    Args:
        model: Has trainable parameters only in layers whose per-sample gradients Opacus knows.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._module = GradSampleModule(model, batch_first=True, loss_reduction="sum")
        self._parameters = [
            parameter
            for _, parameter in sorted(model.named_parameters())
            if parameter.requires_grad
        ]
        self.dimension = sum(parameter.numel() for parameter in self._parameters)

    def clipped_sum(
        self, batches: Iterable[LossBatch], clipping_norm: float
    ) -> NDArray[np.float64]:
        """Returns Σ gᵤ·min(1, C/‖gᵤ‖₂) over all units, float64[d]; zeros for no records.

        Args:
            batches: The sampled records; how they are batched bounds memory only.
            clipping_norm: C, or infinity for the plain sum.
        """
        self._module.train()
        totals = [torch.zeros(p.numel(), dtype=torch.float64) for p in self._parameters]
        for batch in batches:
            self._module.zero_grad(set_to_none=True)
            batch.losses(self._module).sum().backward()  # type: ignore[no-untyped-call]
            gradients = [_per_unit(parameter, batch.units) for parameter in self._parameters]
            norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients]).norm(dim=0)
            factors = torch.clamp(clipping_norm * _ROUNDING_MARGIN / norms, max=1.0)
            # A unit whose gradient overflows adds nothing: to fail on it would tell that it is there.
            finite = torch.isfinite(norms)
            for total, gradient in zip(totals, gradients, strict=True):
                total.add_(factors[finite] @ gradient[finite])
        self._module.zero_grad(set_to_none=True)
        return torch.cat(totals).numpy()


def _per_unit(parameter: torch.nn.Parameter, units: torch.Tensor) -> torch.Tensor:
    """Returns a parameter's gradients, one for each unit: the sum over its records, float64 (units, p)."""
    sample: torch.Tensor = parameter.grad_sample  # type: ignore[attr-defined]
    records = sample.reshape(len(sample), -1).to(torch.float64)
    gradients = records.new_zeros(int(units.max()) + 1, records.shape[1])
    return gradients.index_add_(0, units, records)
