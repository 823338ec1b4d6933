"""The four kinds that docs/privacy-kinds.md writes work once pip has installed them, and only where they are allowed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.documented import blocks, install
from torch import nn

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.accountants.kinds import ACCOUNTANTS
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.privacy.gradients.samplers.kinds import SAMPLERS
from hortus.privacy.noise.randomness import Stream
from hortus.runtime.errors import UsageError
from hortus.runtime.registry import Registry, allow_plug_ins

PAGE = (Path(__file__).parents[2] / "docs" / "privacy-kinds.md").read_text()
MODULES = ("soft", "dyadic", "margin", "one_by_one")
KINDS: dict[str, Registry[Any]] = {
    "soft": CLIPPINGS,
    "dyadic": SAMPLERS,
    "margin": ACCOUNTANTS,
    "one-by-one": ENGINES,
}


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(PAGE, MODULES, tmp_path_factory.mktemp("package"))


@pytest.fixture
def allowed(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site_packages))
    allow_plug_ins(())
    for name, registry in KINDS.items():
        with pytest.raises(UsageError, match="hortus-four-kinds, which is not allowed here"):
            registry.complete({"kind": name})
    assert not set(MODULES) & set(sys.modules)
    allow_plug_ins(["hortus-four-kinds"])
    yield
    allow_plug_ins(())
    for name in MODULES:
        sys.modules.pop(name, None)


def test_each_is_short() -> None:
    assert all(len(code.splitlines()) <= 40 for code in blocks(PAGE, "python"))


class Rows:
    """Records whose units are 0, 0 and 1."""

    units = torch.tensor([0, 0, 1])

    def losses(self, model: nn.Module) -> torch.Tensor:
        x = torch.arange(12, dtype=torch.float64).view(3, 4)
        output: torch.Tensor = model(x)
        return output.sin().sum(1)


@pytest.mark.usefixtures("allowed")
def test_each_does_what_the_page_says() -> None:
    soft, dyadic, margin, engine = (KINDS[name].complete({"kind": name}) for name in KINDS)
    for kind, registry in zip((soft, dyadic, margin, engine), KINDS.values(), strict=True):
        assert registry.parse(kind.section) == kind
    norms = torch.tensor([[0.0, 0.1, 7.0, 1e9]], dtype=torch.float64)
    assert ((soft.at(2.0).factors(norms) * norms) <= 2.0).all()
    joined = dyadic.joining(20_000, 0.3, Stream(bytes(32)))
    assert 0.23 < joined.mean() < 0.27
    history = {GaussianEvent(0.1, 1.0): 10}
    assert margin.epsilon(history, 1e-5) == pytest.approx(1.25 * epsilon(history, 1e-5))
    model = nn.Linear(4, 2).double()
    own = PerUnitGradients(model).clipped_sum([Rows()], soft.at(0.5))
    theirs = PerUnitGradients(model, engine).clipped_sum([Rows()], soft.at(0.5))
    assert np.allclose(theirs.total, own.total, atol=1e-11)
    assert np.abs(own.total).max() > 0.01
