"""Opacus' gradients behind our isolation: what it hooks it gets right, and what it cannot is refused by name."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.hortus import HortusEngine
from hortus.privacy.gradients.engines.opacus import OpacusEngine
from hortus.runtime.errors import UsageError

RECORDS, TOKENS, WIDTH, WORDS = 6, 3, 8, 11


class Inputs:
    """Activations or tokens of some records, and what the loss does with the output."""

    def __init__(self, x: torch.Tensor, units: list[int]) -> None:
        self.x, self.units = x, torch.tensor(units)

    def losses(self, model: nn.Module) -> torch.Tensor:
        output: torch.Tensor = model(self.x)
        weights = torch.arange(1, 1 + output[0].numel()).view_as(output[0])
        return (output * weights).sin().flatten(1).sum(1)


def activations(units: list[int] | None = None, dtype: torch.dtype = torch.float64) -> Inputs:
    x = torch.randn(RECORDS, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    return Inputs(x.to(dtype), units or list(range(RECORDS)))


def tokens() -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return Inputs(
        torch.randint(0, WORDS, (RECORDS, TOKENS), generator=generator), [*range(RECORDS)]
    )


class Twice(nn.Module):
    """One layer used twice, and a frozen one between."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.frozen = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(self.frozen(self.layer(x)).tanh())
        return output


class Using(nn.Module):
    """A function of its input and of bare parameters."""

    def __init__(self, function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.bare = nn.ParameterList(torch.randn(*shape) for shape in shapes)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.inner(x), *self.bare)


def of_layers(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def bias_only() -> nn.Module:
    model = of_layers(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(requires_grad=name.endswith("bias"))
    return model


HOOKED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "linear layers": (
        lambda: of_layers(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 2)),
        activations,
    ),
    "low-rank layers": (
        lambda: of_layers(nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)),
        activations,
    ),
    "biases alone": (bias_only, activations),
    "layer normalisation": (
        lambda: of_layers(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)),
        activations,
    ),
    "root mean square": (lambda: of_layers(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 2)), activations),
    "a table": (lambda: of_layers(nn.Embedding(WORDS, 4), nn.Linear(4, 2)), tokens),
    "GPT-2's layers, by functorch": (
        lambda: of_layers(Conv1D(5, WIDTH), nn.Tanh(), Conv1D(2, 5)),
        activations,
    ),
    "a layer used twice": (Twice, activations),
}


def both(build: Callable[[], nn.Module]) -> tuple[PerUnitGradients, PerUnitGradients]:
    torch.manual_seed(1)
    model = build().double()
    return PerUnitGradients(model, HortusEngine()), PerUnitGradients(model, OpacusEngine())


@pytest.mark.parametrize("hooked", HOOKED)
def test_it_finds_what_our_engine_finds(hooked: str) -> None:
    build, inputs = HOOKED[hooked]
    ours, theirs = both(build)
    assert torch.allclose(theirs.each([inputs()])[0], ours.each([inputs()])[0], rtol=1e-10)
    for bound in (0.1, np.inf):
        own = ours.clipped_sum([inputs()], FlatClipping().at(bound))
        found = theirs.clipped_sum([inputs()], FlatClipping().at(bound))
        assert np.allclose(found.total, own.total, rtol=1e-9, atol=RECORDS * 2.0**-40)
        assert np.allclose(found.norms, own.norms, rtol=1e-12)


@pytest.mark.parametrize("units", [[0, 0, 1, 1, 1, 2], [1, 0, 1, 0, 2, 1], [0] * RECORDS])
def test_a_unit_of_several_records_is_clipped_as_one(units: list[int]) -> None:
    ours, theirs = both(lambda: of_layers(nn.Linear(WIDTH, 5), nn.LayerNorm(5)))
    own = ours.clipped_sum([activations(units)], FlatClipping().at(0.1))
    found = theirs.clipped_sum([activations(units)], FlatClipping().at(0.1))
    assert found.norms.shape == (1, len(set(units)))
    assert np.allclose(found.norms, own.norms, rtol=1e-12)
    assert np.allclose(found.total, own.total, rtol=1e-9, atol=RECORDS * 2.0**-40)
    assert np.linalg.norm(found.total) <= 0.1 * len(set(units))


def added(engine: PerUnitGradients, records: list[int]) -> NDArray[np.float64]:
    x = activations(dtype=torch.float32).x[records]
    inputs = [Inputs(one.unsqueeze(0), [0]) for one in x]
    return engine.clipped_sum(inputs, FlatClipping().at(0.1)).total


def test_what_a_unit_adds_keeps_its_bits_whoever_else_is_there() -> None:
    torch.manual_seed(1)
    model = of_layers(nn.Linear(WIDTH, 5), nn.Tanh(), nn.Linear(5, 2))
    engine = PerUnitGradients(model, OpacusEngine())
    alone = [added(engine, [record]) for record in range(RECORDS)]
    assert np.abs(alone).min() > 0
    for records in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [2, 4]):
        together = added(engine, records)
        assert np.array_equal(together, np.sum([alone[r] for r in records], 0))


def test_it_leaves_the_model_as_it_was() -> None:
    _, theirs = both(Twice)
    model = theirs._model
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    first = theirs.each([activations()])[0]
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in model.parameters())
    assert torch.equal(theirs.each([activations()])[0], first)  # and can be hooked again


class Failing(Inputs):
    """A pass that fails when the model has run."""

    def losses(self, model: nn.Module) -> torch.Tensor:
        super().losses(model)
        raise RuntimeError("out of memory")


def test_a_pass_that_fails_leaves_nothing_to_the_next() -> None:
    _, theirs = both(Twice)
    expected = theirs.each([Inputs(activations().x[:2], [0, 1])])[0]
    with pytest.raises(RuntimeError, match="out of memory"):
        theirs.each([Failing(activations().x, [*range(RECORDS)])])
    assert torch.equal(theirs.each([Inputs(activations().x[:2], [0, 1])])[0], expected)


class Buffered(nn.Module):
    """A trainable layer that also keeps something."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Positions(nn.Module):
    """Positions looked up once for all records."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions: torch.Tensor = self.table(torch.arange(TOKENS)[None])
        return x + positions


class Unused(nn.Module):
    """A layer that runs, and whose output nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.idle(x)
        output: torch.Tensor = self.used(x)
        return output


REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs], str]] = {
    "a bare parameter": (
        lambda: Using(lambda x, v: x * v, (WIDTH,)),
        activations,
        "bare.0: Opacus finds no gradients of single records",
    ),
    "a layer with a buffer": (Buffered, activations, "Opacus cannot hook the model: .*buffers"),
    "positions for all records": (
        Positions,
        activations,
        "table.weight: Opacus finds 1 gradients in a pass of 6 records",
    ),
    "a layer that nobody uses": (Unused, activations, "idle.bias: Opacus finds no gradients"),
    "a padded table": (
        lambda: of_layers(nn.Embedding(WORDS, 4, padding_idx=0), nn.Linear(4, 2)),
        tokens,
        "0.weight: Opacus gives the padding row",
    ),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_it_cannot_hook_is_refused_by_name(refused: str) -> None:
    build, inputs, reason = REFUSED[refused]
    _, theirs = both(build)
    with pytest.raises(UsageError, match=reason) as caught:
        theirs.each([inputs()])
    assert "privacy.engine: {kind: hortus}" in (caught.value.remedy or "")
