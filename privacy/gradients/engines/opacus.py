"""`opacus`: per-record gradients from Opacus' `GradSampleModule`, the field's reference implementation.

Opacus (Yousefpour et al. 2021) hooks modules and computes each layer's per-sample gradients from its input and its
output's gradient. It keeps what it finds on modules and parameters, so one pass is computed at a time. What it cannot
hook, or would get wrong, is refused by name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from hortus.privacy.gradients.engines.base import GradientEngine, LossBatch, PassGradients
from hortus.runtime.errors import UsageError, in_one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

_REMEDY = "Freeze the parameter, or use privacy.engine: {kind: hortus}."


class OpacusEngine(GradientEngine):
    """Opacus 1.6 or later: linear, normalisation and embedding layers, and others by functorch.

    Bare parameters outside of layers, such as LoRA's on an embedding or IA3's, it does not see.
    """

    kind: Literal["opacus"] = "opacus"

    @contextmanager
    def attached(self, model: "nn.Module", names: Sequence[str]) -> Iterator[PassGradients]:
        """Prepares a model: see `GradientEngine.attached`."""
        import torch
        from opacus import GradSampleModule

        from hortus.privacy.gradients.units import Units, backward

        parameters = {name: p for name, p in model.named_parameters() if name in set(names)}
        device = parameters[names[0]].device
        _refuse_padded_tables(model)
        try:
            hooked = GradSampleModule(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise UsageError(
                f"Opacus cannot hook the model: {error}", where="privacy.engine", remedy=_REMEDY
            ) from error

        def gradients(batch: LossBatch) -> torch.Tensor:
            units = Units.of(batch, device)
            try:
                backward(batch, model)
                rows = [_of_records(name, parameters[name], units.records) for name in names]
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                # What functorch says of a layer that takes more than activations, such as DoRA's.
                raise UsageError(
                    f"Opacus cannot follow a layer ({type(error).__name__}: {in_one_line(str(error), 200)})",
                    where="privacy.engine",
                    remedy=_REMEDY,
                ) from error
            finally:
                hooked.zero_grad(set_to_none=True)
            return torch.cat([units.summed(of_records) for of_records in rows], 1)

        try:
            yield gradients
        finally:
            hooked.to_standard_module()
            for module in model.modules():  # what a pass that failed has left
                for left in ("activations", "max_batch_len"):
                    module.__dict__.pop(left, None)


def _of_records(name: str, parameter: "nn.Parameter", records: int) -> "torch.Tensor":
    """Returns what Opacus found for a parameter, float32 at least, (records, size)."""
    import torch

    found = parameter.grad_sample  # type: ignore[attr-defined]
    if not isinstance(found, torch.Tensor):
        raise UsageError(
            "Opacus finds no gradients of single records: no layer that it knows uses the parameter, once a pass",
            where=name,
            remedy=_REMEDY,
        )
    if len(found) != records:
        raise UsageError(
            f"Opacus finds {len(found)} gradients in a pass of {records} records: the first dimension of what its "
            "layer is given is not the record",
            where=name,
            remedy=_REMEDY,
        )
    wide = torch.promote_types(found.dtype, torch.float32)
    return found.detach().flatten(1).to(wide)


def _refuse_padded_tables(model: "nn.Module") -> None:
    from torch import nn

    for name, module in model.named_modules():
        padded = isinstance(module, nn.Embedding) and module.padding_idx is not None
        if padded and module.weight.requires_grad:
            raise UsageError(
                "Opacus gives the padding row of an embedding a gradient, which it does not have",
                where=f"{name}.weight",
                remedy=_REMEDY,
            )
