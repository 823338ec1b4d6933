"""Products that keep records apart: the same numbers as a linear layer's, in a tensor of their own."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from hortus.learning.passes.division import Passes, shortest_alone
from hortus.learning.passes.isolation import keep_apart, linear

SHAPES = [(3, 5), (3, 4, 5), (3, 2, 4, 5)]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_is_a_linear_layers(shape: tuple[int, ...], biased: bool) -> None:
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    bias = torch.randn(7, dtype=torch.float64) if biased else None
    expected = functional.linear(x, weight, bias)
    assert torch.allclose(linear(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_a_record_in_bfloat16_has_the_product_that_it_has_alone(biased: bool) -> None:
    x = torch.randn(4, 6, 40).to(torch.bfloat16)
    weight = torch.randn(50, 40).to(torch.bfloat16)
    bias = torch.randn(50).to(torch.bfloat16) if biased else None
    together = linear(x, weight, bias)
    assert together.dtype is torch.bfloat16
    for record, product in zip(x, together, strict=True):
        assert torch.equal(product, functional.linear(record, weight, bias))


def test_what_a_text_comes_to_is_no_view() -> None:
    """The tap on a trained layer writes into it, and autograd would copy a view three times over."""
    assert not linear(torch.randn(3, 4, 5), torch.randn(7, 5))._is_view()


def test_only_what_never_shares_a_pass_is_multiplied_as_usual() -> None:
    width = 576
    alone = shortest_alone(width)
    passes = Passes(4 * alone, width)
    assert passes.most(passes.shape(alone), 64) == 1
    assert passes.most(passes.shape(alone // 2), 64) > 1
    model = nn.Sequential(nn.Linear(width, 96))
    model.config = SimpleNamespace(hidden_size=width)  # type: ignore[assignment]
    keep_apart(model)
    layer = model[0]
    for records, tokens in ((1, alone), (1, alone - 1), (4, alone)):
        x = torch.randn(records, tokens, width)
        product = functional.linear if (records, tokens) == (1, alone) else linear
        assert torch.equal(model(x), product(x, layer.weight, layer.bias))
