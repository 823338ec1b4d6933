"""The engine that docs/simulation.md writes works once pip has installed it, and only where it is allowed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.documented import blocks, install

from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Simulation
from hortus.runtime.errors import UsageError
from hortus.runtime.registry import allow_plug_ins
from hortus.server.run.view import read_view
from hortus.simulation.engines.kinds import ENGINES
from hortus.simulation.simulate import SimulatedRun, simulate

PAGE = (Path(__file__).parents[3] / "docs" / "simulation.md").read_text()
OWN = {"kind": "shifts", "least": 0.25}


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of the page's two files."""
    return install(PAGE, ["shifts"], tmp_path_factory.mktemp("package"))


@pytest.fixture
def installed(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site_packages))
    allow_plug_ins(())
    yield
    allow_plug_ins(())
    sys.modules.pop("shifts", None)


def run(path: Path, out: Path) -> SimulatedRun:
    return simulate(load_plan(path), path, out, lambda *_: None)


def test_it_is_short() -> None:
    assert all(len(code.splitlines()) <= 40 for code in blocks(PAGE, "python"))


def test_the_section_on_the_page_is_one() -> None:
    (section,) = map(yaml.safe_load, blocks(PAGE, "yaml"))
    written = Simulation(**section["simulation"], sites={"ash": Path("ash.csv")})
    assert ENGINES.complete(written.engine.fields).kind == "in-process"


@pytest.mark.usefixtures("installed")
def test_it_is_loaded_only_where_it_is_allowed(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan(simulation={"engine": OWN})
    with pytest.raises(UsageError, match="hortus-shifts, which is not allowed here"):
        run(path, tmp_path / "run")
    assert "shifts" not in sys.modules
    allow_plug_ins(None)
    for wrong, said in (({"least": 2}, "least"), ({"leest": 1}, "did you mean least")):
        with pytest.raises(UsageError, match=said):
            ENGINES.complete({"kind": "shifts"} | wrong)


@pytest.mark.usefixtures("installed")
def test_a_site_pays_for_the_sums_that_it_is_in(write_plan: Any, tmp_path: Path) -> None:
    allow_plug_ins(None)
    path = write_plan(simulation={"engine": OWN}, training={"rounds": 3}, seed=17)
    first = run(path, tmp_path / "one")
    sites = {site.name: site for site in read_view(first.directory).sites}
    present = ENGINES.complete(OWN).present  # type: ignore[attr-defined]
    taken = [present(first.contract, number, sorted(sites)) for number in range(6)]
    assert 12 <= sum(map(len, taken)) < 18
    for name, site in sites.items():
        assert site.charges == sum(name in there for there in taken)
    spent = [site.spent or 0.0 for site in sites.values()]
    assert min(spent) < max(spent) == first.store.rounds[-1].epsilon
    again = run(path, tmp_path / "two")
    assert again.adapter.tobytes() == first.adapter.tobytes()


@pytest.mark.usefixtures("installed")
def test_a_sum_with_too_few_sites_ends_the_simulation_and_says_so(
    write_plan: Any, tmp_path: Path
) -> None:
    allow_plug_ins(None)
    path = write_plan(simulation={"engine": OWN | {"least": 0}}, cohort={"minimum": 3}, seed=1)
    with pytest.raises(UsageError, match=r"of 3 sites are present in sum \d, the plan needs 3"):
        run(path, tmp_path / "run")
