"""No use of a trainable parameter is missed: each is either followed, or refused by name."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import FINE_GRID, PerUnitGradients
from hortus.runtime.errors import UsageError

RECORDS, TOKENS, WIDTH = 4, 3, 5


@dataclass(frozen=True)
class Inputs:
    """Activations, (records, tokens, width), and what the loss does with the output."""

    x: torch.Tensor
    units: torch.Tensor

    @classmethod
    def draw(cls, dtype: torch.dtype = torch.float64) -> "Inputs":
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(RECORDS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
        return cls(x.to(dtype), torch.arange(RECORDS))

    def losses(self, model: nn.Module) -> torch.Tensor:
        output: torch.Tensor = model(self.x)
        weights = torch.arange(1, 1 + output[0].numel()).view_as(output[0])
        return (output * weights).sin().flatten(1).sum(1)


def summed(model: nn.Module, bound: float = 0.5) -> NDArray[np.float64]:
    return PerUnitGradients(model).clipped_sum([Inputs.draw()], FlatClipping().at(bound)).total


def one_by_one(model: nn.Module, bound: float = 0.5) -> NDArray[np.float64]:
    inputs = Inputs.draw()
    total: Any = 0
    for record in range(RECORDS):
        alone = Inputs(inputs.x[record : record + 1], torch.arange(1))
        parameters = [p for _, p in sorted(model.named_parameters()) if p.requires_grad]
        gradients = torch.autograd.grad(alone.losses(model).sum(), parameters)
        row = torch.cat([g.flatten() for g in gradients]).double().numpy()
        total = total + row / max(1, np.linalg.norm(row) / bound)
    return np.asarray(total)


class Using(nn.Module):
    """A model that is one function of its input and of the parameters of these shapes."""

    def __init__(self, function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(1)
        self.weights = nn.ParameterList(
            torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.weights)


functional = nn.functional
VECTOR, SQUARE = (WIDTH,), (WIDTH, WIDTH)
FROZEN = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def directed(x: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(W + s·BA)·x, and the norm of each row of W + s·BA, a constant (Liu et al. 2024, section 4.3)."""
    output = x @ FROZEN.T + 0.5 * functional.linear(functional.linear(x, a), b)
    return output, (FROZEN + 0.5 * (b.detach() @ a.detach())).norm(dim=1)


def dora(x: torch.Tensor, b: torch.Tensor, a: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    output, norm = directed(x, b, a)
    return m * (output / norm)


def dora_as_scale(
    x: torch.Tensor, b: torch.Tensor, a: torch.Tensor, m: torch.Tensor
) -> torch.Tensor:
    output, norm = directed(x, b, a)
    return output * m / norm


KNOWN: dict[str, nn.Module] = {
    "a transposed matrix": Using(lambda x, w: x @ w.T, (7, WIDTH)),
    "a matrix from the right": Using(torch.matmul, (WIDTH, 7)),
    "a matrix that is never formed": Using(functional.linear, (90, WIDTH)),
    "a bias with a frozen weight": Using(
        lambda x, b: functional.linear(x, torch.ones(7, WIDTH, dtype=x.dtype), b), (7,)
    ),
    "a vector, multiplied": Using(lambda x, v: v * x, VECTOR),
    "a vector, added": Using(lambda x, v: x + v, VECTOR),
    "one number for all": Using(lambda x, v: x * v, (1,)),
    "a table for each position": Using(lambda x, v: x * v, (TOKENS, WIDTH)),
    "a column, flattened": Using(lambda x, v: x * (1 * v.flatten()), (WIDTH, 1)),
    "one and a vector": Using(lambda x, v: x * (1.0 + v.to(x.dtype)), VECTOR),
    "a scaled matrix": Using(lambda x, w: functional.linear(x, w * 0.25), SQUARE),
    "a vector over a number, as a row": Using(lambda x, v: x * (v / 8).unsqueeze(0), VECTOR),
    "directions and magnitudes": Using(dora, (7, 2), (2, WIDTH), (7,)),
    "magnitudes, multiplied first": Using(dora_as_scale, (7, 2), (2, WIDTH), (7,)),
    "two scales, as in IA3": Using(
        lambda x, k, v: ((x * k).softmax(-1) * (x * v)).cumsum(1), VECTOR, (1, 1, WIDTH)
    ),
    "root mean square": Using(lambda x, v: functional.rms_norm(x, VECTOR, v), VECTOR),
    "normalisation over two dimensions": nn.LayerNorm((TOKENS, WIDTH)).double(),
    "a table, looked up": Using(
        lambda x, w: functional.embedding((x > 0).long().sum(2), w, padding_idx=2), (6, WIDTH)
    ),
    "a transposed table": Using(
        lambda x, w: functional.embedding((x > 0).long().sum(2), w.T), (WIDTH, 6)
    ),
    "positions that records share": Using(
        lambda x, w: x + functional.embedding(torch.arange(TOKENS)[None], w), (6, WIDTH)
    ),
    "Conv1D": Conv1D(7, WIDTH).double(),
    "one matrix twice": Using(lambda x, w: (x @ w).tanh() @ w.T, SQUARE),
    "a large matrix twice": Using(lambda x, w: 1e-3 * ((x @ w.T) @ w) @ w.T, (90, WIDTH)),
    "a table that is also a matrix": Using(
        lambda x, w: functional.linear(functional.embedding((x > 0).long().sum(2), w) + x, w, None),
        (6, WIDTH),
    ),
}


@pytest.mark.parametrize("known", KNOWN)
def test_a_known_use_gives_the_gradients_of_single_records(known: str) -> None:
    model = KNOWN[known]
    for bound in (0.5, np.inf):
        expected = one_by_one(model, bound)
        assert np.allclose(summed(model, bound), expected, rtol=1e-10, atol=RECORDS * FINE_GRID)


def test_rounding_never_lifts_a_clipped_gradient_above_the_bound() -> None:
    """Without the margin about half of the records would pass 0.3: all 40 keep it with 1 in 2⁴⁰."""
    engine = PerUnitGradients(Using(lambda x, v: x * v, VECTOR))
    x = torch.randn(40, TOKENS, WIDTH, generator=torch.Generator().manual_seed(6)).double()
    for record in range(len(x)):
        alone = Inputs(x[record : record + 1], torch.tensor([0]))
        total = engine.clipped_sum([alone], FlatClipping().at(0.3)).total
        exact = sum(Fraction(float(value)) ** 2 for value in total)
        assert Fraction(0.29) ** 2 < exact <= Fraction(0.3) ** 2


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "a recurrent layer": (
        nn.GRU(WIDTH, WIDTH, batch_first=True).double(),
        "weight_ih_l0: .*torch.gru",
    ),
    "a convolution": (
        Using(functional.conv1d, (TOKENS, TOKENS, 1)),
        "weights.0: .*conv1d",
    ),
    "a power": (Using(lambda x, v: x * v.exp(), VECTOR), "weights.0: .*Tensor.exp"),
    "a multiple, added": (
        Using(lambda x, v: torch.add(x, v, alpha=2), VECTOR),
        "weights.0: .*torch.add",
    ),
    "a product of two": (
        Using(lambda x, a, b: x @ (a @ b), SQUARE, SQUARE),
        "weights.[01]: .*matmul",
    ),
    "in place": (Using(lambda x, v: x.clone().mul_(v), VECTOR), "weights.0: .*mul_"),
    "a list": (Using(lambda x, v: x * torch.cat([v, v])[:WIDTH], VECTOR), "weights.0: .*cat"),
    "a value taken out": (Using(lambda x, v: x * v.data, VECTOR), "weights.0: .*data"),
    "detached": (
        Using(lambda x, v: x * v.detach(), VECTOR),
        "weights.0: .*does not depend on it",
    ),
    "a number over it": (Using(lambda x, v: x * (2 / v), VECTOR), "weights.0: .*div"),
    "an activation over it": (Using(lambda x, v: x / v, VECTOR), "weights.0: .*div"),
    "over another parameter's norm, with its gradient": (
        Using(lambda x, v, w: x * (v / w.norm()), VECTOR, SQUARE),
        "weights.1: .*norm",
    ),
    "records and tokens together": (
        Using(lambda x, w: functional.linear(x.flatten(0, 1), w).view_as(x), SQUARE),
        "weights.0: .*is not the record",
    ),
    "a number that is a tensor": (
        Using(lambda x, v: x * (v * torch.tensor(2.0)), VECTOR),
        "weights.0: .*mul",
    ),
    "another value for each record": (
        Using(lambda x, v: x * v, (RECORDS, TOKENS, WIDTH)),
        "weights.0: .*mul",
    ),
    "one position index for all": (
        Using(lambda x, w: x + functional.embedding(torch.arange(TOKENS), w), (6, WIDTH)),
        "weights.0: .*embedding",
    ),
    "rows cut to a norm": (
        Using(
            lambda x, w: functional.embedding((x > 0).long().sum(2), w, max_norm=1.0), (6, WIDTH)
        ),
        "weights.0: .*embedding",
    ),
    "unused": (Using(lambda x, v, _: x * v, VECTOR, VECTOR), "weights.1: .*does not depend on it"),
    "used without gradient": (
        Using(lambda x, v, w: x * v + torch.no_grad()(lambda: x * w)(), VECTOR, VECTOR),
        "weights.1: .*does not depend on it",
    ),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_an_unknown_use_is_refused_by_name(refused: str) -> None:
    model, reason = REFUSED[refused]
    with pytest.raises(UsageError, match=reason):
        summed(model)
    assert all(type(p) is nn.Parameter for p in model.parameters())  # none is left replaced


def test_a_parameter_that_is_used_openly_and_behind_the_engines_back_is_refused() -> None:
    model = Using(lambda x, v: x * v, VECTOR)
    hidden = model.weights[0]
    model.function = lambda x, v: x * v + hidden
    with pytest.raises(UsageError, match="weights.0"):
        summed(model)


def test_layers_that_mix_records_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="1: BatchNorm1d mixes records"):
        PerUnitGradients(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(UsageError, match="no trainable parameter"):
        PerUnitGradients(nn.Linear(2, 2).requires_grad_(requires_grad=False))


class Checkpointed(nn.Module):
    """Layers whose activations are computed again in the backward pass."""

    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = nn.Linear(WIDTH, 40).double(), nn.Linear(40, WIDTH).double()
        self.use_reentrant: bool | None = use_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def layers(x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.second(functional.dropout(self.first(x).tanh(), 0.5))
            return output

        if self.use_reentrant is None:
            return layers(x)
        again: torch.Tensor = checkpoint(
            layers, x.requires_grad_(), use_reentrant=self.use_reentrant
        )  # type: ignore[no-untyped-call]
        return again


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_bit_even_with_dropout(use_reentrant: bool) -> None:
    model = Checkpointed(use_reentrant=use_reentrant)
    torch.manual_seed(3)
    saved = summed(model)
    model.use_reentrant = None
    torch.manual_seed(3)
    assert np.array_equal(saved, summed(model))
    torch.manual_seed(4)
    assert not np.allclose(saved, summed(model))  # dropout is on


def test_a_checkpoint_through_which_no_gradient_passes_is_refused() -> None:
    class Severed(Checkpointed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(checkpoint(self.first, x, use_reentrant=True))  # type: ignore[no-any-return, no-untyped-call]

    with (
        pytest.raises(UsageError, match=r"first\.bias: .*does not depend on it"),
        pytest.warns(UserWarning, match="None of the inputs have requires_grad"),
    ):
        summed(Severed(use_reentrant=True))


def test_half_precision_activations_give_float32_gradients() -> None:
    """Under autocast, linear layers run in bfloat16; 8 bits of mantissa are 0.4 %."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(WIDTH, 40), nn.LayerNorm(40), nn.Linear(40, 2))
    inputs = Inputs.draw(torch.float32)

    class Half(Inputs):
        def losses(self, model: nn.Module) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().losses(model)

    in_half = Half(inputs.x, inputs.units)
    half = PerUnitGradients(model).clipped_sum([in_half], FlatClipping().at(0.5))
    full = PerUnitGradients(model).clipped_sum([inputs], FlatClipping().at(0.5))
    assert half.total.dtype == np.float64
    assert np.linalg.norm(half.total) <= 0.5 * RECORDS
    assert 0 < np.linalg.norm(half.total - full.total) < 0.05 * np.linalg.norm(full.total)


def test_norms_are_told_unit_by_unit_in_the_order_of_the_batches() -> None:
    model = Using(lambda x, v: x * v, VECTOR)
    inputs = Inputs.draw()
    halves = [Inputs(inputs.x[k : k + 2], torch.tensor([1, 0])) for k in (0, 2)]
    engine = PerUnitGradients(model)
    found = engine.clipped_sum(halves, FlatClipping().at(0.5)).norms
    alone = [
        np.linalg.norm(
            engine.clipped_sum(
                [Inputs(inputs.x[k : k + 1], torch.tensor([0]))], FlatClipping().at(np.inf)
            ).total
        )
        for k in (1, 0, 3, 2)
    ]
    assert found.shape == (1, 4)
    assert np.allclose(found[0], alone, rtol=1e-12)
    assert (found[0] >= alone).all()


def test_a_batch_of_no_records_adds_nothing() -> None:
    model = Using(lambda x, v: x * v, VECTOR)
    inputs = Inputs.draw()
    none = Inputs(inputs.x[:0], inputs.units[:0])
    engine, clipping = PerUnitGradients(model), FlatClipping().at(0.5)
    alone = engine.clipped_sum([inputs], clipping)
    assert np.array_equal(engine.clipped_sum([none, inputs, none], clipping).total, alone.total)
    assert engine.clipped_sum([none], clipping).norms.shape == (1, 0)


def test_units_with_a_gap_are_not_taken_for_single_records() -> None:
    """Three records and a highest unit of 2 look like three units."""
    inputs = Inputs(Inputs.draw().x[:3], torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match="without gaps"):
        PerUnitGradients(Using(lambda x, v: x * v, VECTOR)).clipped_sum(
            [inputs], FlatClipping().at(0.5)
        )
