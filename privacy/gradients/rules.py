"""What a parameter's gradient is made of, for each record, by the operation that the parameter is used in.

A rule takes the output's gradient, float32 at least, (records, …), what was kept of the forward pass, and the form
in which the parameter was used. It returns the parameter's gradients, (records, size), in the order of its elements.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Form:
    """How a parameter was used.

    Attributes:
        shape: As it was used.
        transposed: Whether that is the shape of its transpose.
    """

    shape: torch.Size
    transposed: bool


Rule = Callable[[torch.Tensor, Any, Form], torch.Tensor]


def matrix(gradient: torch.Tensor, x: torch.Tensor, form: Form) -> torch.Tensor:
    """Returns Σₜ gradientₜ ⊗ xₜ, of x·Wᵀ."""
    records, (rows, columns) = len(gradient), form.shape
    left = gradient.reshape(records, -1, rows)
    right = wide(x).reshape(records, -1, columns)
    if form.transposed:
        left, right = right, left
    # Few rows times many columns is several times faster than the other way round.
    is_wide = left.shape[2] <= right.shape[2]
    formed = torch.bmm(left.mT, right) if is_wide else torch.bmm(right.mT, left).mT
    return formed.flatten(1)


def table(
    gradient: torch.Tensor, index: torch.Tensor, form: Form, *, padding_idx: int | None
) -> torch.Tensor:
    """Returns the gradients of each row that a record looks up, summed; the padding row has none."""
    records, (height, width) = len(index), form.shape
    rows, gradients = index.reshape(records, -1), gradient.reshape(records, -1, width)
    if padding_idx is not None:
        gradients = torch.where((rows != padding_idx % height).unsqueeze(2), gradients, 0)
    places = rows + height * torch.arange(records, device=rows.device).unsqueeze(1)
    tables = gradients.new_zeros(records * height, width)
    tables.index_add_(0, places.flatten(), gradients.flatten(0, 1))
    tables = tables.view(records, height, width)
    return (tables.mT if form.transposed else tables).reshape(records, -1)


def multiplied(gradient: torch.Tensor, other: torch.Tensor, form: Form) -> torch.Tensor:
    """Returns gradient·other, of a product, summed as in `added`."""
    return added(gradient * wide(other), None, form)


def normalised(
    gradient: torch.Tensor,
    x: torch.Tensor,
    form: Form,
    *,
    normalise: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Returns gradient·normalise(x), of a normalisation's weight, summed as in `added`."""
    return added(gradient * normalise(wide(x)), None, form)


def added(gradient: torch.Tensor, _kept: torch.Tensor | None, form: Form) -> torch.Tensor:
    """Returns the gradient, summed over what the value was broadcast along but the records."""
    shape = (*[1] * (gradient.dim() - len(form.shape)), *form.shape)
    shared = [d for d, size in enumerate(shape) if d > 0 and size == 1]
    reduced = (gradient.sum(shared) if shared else gradient).view(-1, *form.shape)
    return (reduced.mT if form.transposed else reduced).flatten(1)


def wide(values: torch.Tensor) -> torch.Tensor:
    """Returns values, without their graph, in at least float32: exactly, from whatever is narrower."""
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))
