"""Every gradient engine: the gradients of units, apart to the last bit, and the model left as it was."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.base import GradientEngine
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.protocol.section import Section
from hortus.runtime.errors import UsageError

every_engine = pytest.mark.parametrize("kind", ENGINES.names())
WIDTH, TOKENS, RECORDS = 6, 3, 5


class Inputs:
    """Activations of some records."""

    def __init__(self, x: torch.Tensor, units: list[int]) -> None:
        self.x, self.units = x, torch.tensor(units)

    def losses(self, model: nn.Module) -> torch.Tensor:
        output: torch.Tensor = model(self.x)
        return output.sin().flatten(1).sum(1)


def model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False)
    return nn.Sequential(
        nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH), nn.LayerNorm(WIDTH), frozen
    ).to(dtype)


def records(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(RECORDS, TOKENS, WIDTH, generator=generator, dtype=torch.float64).to(dtype)


def engine(kind: str) -> GradientEngine:
    return ENGINES.complete({"kind": kind})


@every_engine
@pytest.mark.parametrize("units", [[0, 1, 2, 3, 4], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0] * 5])
def test_each_unit_has_the_gradient_of_its_records_losses(kind: str, units: list[int]) -> None:
    trained = model()
    (found,) = PerUnitGradients(trained, engine(kind)).each([Inputs(records(), units)])
    parameters = [p for _, p in sorted(trained.named_parameters()) if p.requires_grad]
    for unit in range(1 + max(units)):
        of_unit = [record for record, owner in enumerate(units) if owner == unit]
        alone = Inputs(records()[of_unit], [0] * len(of_unit))
        expected = torch.autograd.grad(alone.losses(trained).sum(), parameters)
        assert torch.allclose(found[unit], torch.cat([g.flatten() for g in expected]), rtol=1e-10)


@every_engine
def test_what_a_unit_adds_has_the_same_bits_whoever_else_is_there(kind: str) -> None:
    gradients = PerUnitGradients(model(torch.float32), engine(kind))
    x, clipping = records(torch.float32), FlatClipping().at(0.3)

    def added(chosen: list[int]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        passes = [Inputs(x[[record]], [0]) for record in chosen]
        return gradients.clipped_sum(passes, clipping).total

    alone = [added([record]) for record in range(RECORDS)]
    assert np.abs(alone).max() > 0
    for chosen in ([0, 1, 2, 3, 4], [4, 2, 0], [1, 3]):
        assert np.array_equal(added(chosen), np.sum([alone[record] for record in chosen], 0))


@every_engine
def test_no_unit_adds_more_than_the_norm(kind: str) -> None:
    gradients = PerUnitGradients(model(), engine(kind))
    found = gradients.clipped_each(Inputs(records(), [0, 1, 2, 3, 4]), FlatClipping().at(0.01))
    assert [np.linalg.norm(one.total) <= 0.01 for one in found] == [True] * RECORDS
    assert min(np.linalg.norm(one.total) for one in found) > 0.0099


@every_engine
def test_the_model_is_left_as_it_was(kind: str) -> None:
    trained = model()
    gradients = PerUnitGradients(trained, engine(kind))
    before = {name: set(vars(module)) for name, module in trained.named_modules()}
    first = gradients.each([Inputs(records(), [0, 1, 2, 3, 4])])[0]
    assert {name: set(vars(module)) for name, module in trained.named_modules()} == before
    assert all(type(p) is nn.Parameter and p.grad is None for p in trained.parameters())
    assert torch.equal(gradients.each([Inputs(records(), [0, 1, 2, 3, 4])])[0], first)


@every_engine
def test_a_parameter_that_the_loss_does_not_depend_on_is_refused_by_name(kind: str) -> None:
    trained = nn.ModuleDict({"used": nn.Linear(WIDTH, 2), "idle": nn.Linear(WIDTH, 2)})

    class UsedAlone(Inputs):
        def losses(self, model: nn.Module) -> torch.Tensor:
            return super().losses(model["used"])  # type: ignore[index]

    with pytest.raises(UsageError, match="idle.bias"):
        PerUnitGradients(trained.double(), engine(kind)).each([UsedAlone(records(), [0] * 5)])


@every_engine
def test_a_contracts_section_is_read_as_it_was_written(kind: str) -> None:
    section = engine(kind).section
    again = Section.model_validate(json.loads(section.model_dump_json()))
    assert ENGINES.parse(again) == engine(kind)
    assert again.digest() == section.digest()


@pytest.mark.parametrize(
    ("written", "meant"), [("opakus", "opacus"), ("Hortus", "hortus"), ("hortsu", "hortus")]
)
def test_an_unknown_engine_is_refused_with_the_nearest_one(written: str, meant: str) -> None:
    with pytest.raises(UsageError, match="privacy.engine.kind") as caught:
        ENGINES.complete({"kind": written})
    assert f"'{meant}'" in str(caught.value)
