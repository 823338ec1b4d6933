"""Products that keep the records of a pass apart, to the last bit.

A linear layer usually multiplies all tokens of all records by its weight in one matrix product,
whose blocking, and so whose rounding, depends on how many rows there are. Here every record has
a product of its own: one matrix of a batch of matrices that meet the same weight. The backward pass then
treats records apart too, as layer normalisation, activations, softmax and attention do anyway.

No library promises that a matrix of a batch has the same bits whatever the batch's size, and a model may
multiply elsewhere. So what shares a pass is compared bit by bit before it is relied upon
(`hortus.privacy.gradients.workbench`), and a unit that is alone in its pass needs no promise at all. A record so
long that it never shares one is therefore multiplied as usual, which is faster.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from hortus.learning.passes.division import shortest_alone


def keep_apart(model: nn.Module) -> None:
    """Has every linear layer of a model, from now on, multiply each record by itself.

    Args:
        model: Changed in place. The first dimension of its activations is the record.
    """
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    alone = shortest_alone(width) if width else None
    for layer in model.modules():
        if isinstance(layer, nn.Linear | Conv1D):
            layer.forward = partial(_forward, layer, alone)  # type: ignore[method-assign]


def join(model: nn.Module) -> None:
    """Undoes `keep_apart`: whoever only uses a model may have its records multiplied together."""
    for layer in model.modules():
        forward = vars(layer).get("forward")
        if isinstance(forward, partial) and forward.func is _forward:
            del layer.forward


def _forward(layer: nn.Linear | Conv1D, alone: int | None, x: torch.Tensor) -> torch.Tensor:
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
    # What is trained is seen to by `hortus.privacy.gradients.tracking`.
    plain = type(weight) in _PLAIN and type(layer.bias) in _PLAIN
    never_shares = alone is not None and x.dim() == 3 and len(x) == 1 and x.shape[1] >= alone
    product = linear if plain and x.dim() >= 2 and not never_shares else functional.linear
    return product(x, weight, layer.bias)


_PLAIN = (torch.Tensor, nn.Parameter, type(None))


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Returns x·Wᵀ + b, a product for each record.

    Args:
        x: (records, …, in).
        weight: (out, in).
        bias: (out,).
    """
    records = x.shape[0]
    if x.dtype is torch.bfloat16 and x.device.type == "cpu":
        # Several times as fast as a batch of matrices, which oneDNN has no kernel of its own for.
        return torch.stack([functional.linear(record, weight, bias) for record in x])
    # No view where none is needed: whoever writes into one has autograd copy it three times.
    rows = x if x.dim() == 3 else x.reshape(records, -1, x.shape[-1])
    weights = weight.T.expand(records, -1, -1)
    products = (
        torch.bmm(rows, weights) if bias is None else torch.baddbmm(bias, rows, weights)
    )  # (records, tokens, out)
    return products if x.dim() == 3 else products.view(*x.shape[:-1], weight.shape[0])
