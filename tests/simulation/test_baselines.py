"""`hortus simulate --baselines` tells what limits the accuracy, in words, on the report and from real runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PlanWriter
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.cli.rehearsal import baselines_folder
from hortus.learning.models.base import Base
from hortus.learning.tasks.classification import TextClassification
from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import prepare
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Plan
from hortus.simulation.clipped import share_cut
from hortus.simulation.site_records import read_site_records

ROOT = Path(__file__).parents[2]


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Returns a list that each base model's folder is added to when it is loaded."""
    loaded: list[Path] = []

    def load(task: TextClassification, path: Path, *rest: Any) -> Base:
        loaded.append(path)
        return read(task, path, *rest)

    read = TextClassification.load
    monkeypatch.setattr(TextClassification, "load", load)
    return loaded


def documented() -> list[str]:
    """Returns the measures that the quickstart explains."""
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    table = text.partition("| it prints |")[2].partition("\n\n")[0]
    return re.findall(r"^\| (\w.*?) \|", table, re.MULTILINE)


def test_the_run_is_held_against_the_same_plan_without_privacy_and_each_site_alone(
    write_plan: PlanWriter, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plan()
    loaded = count_loads(monkeypatch)
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["simulate", str(path), "--baselines"]
    )
    assert done.exit_code == 0, done.output
    page = (path.parent / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    measures = documented()
    assert len(measures) == 6
    for measure in measures:
        assert measure in done.output
        assert measure in page
    baselines = path.parent / "runs" / "tiny-baselines"
    assert (baselines / "alone.json").exists()
    assert (baselines / "without-privacy" / "adapter").is_dir()
    assert loaded == [tiny_model]  # for the trial, the sites and the server, of all runs


def test_the_baselines_lie_beside_the_run_however_its_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "inner").mkdir(parents=True)
    for here, name in (
        ("run", "."),
        ("run/inner", ".."),
        ("run", "../run"),
        ("run", tmp_path / "run"),
    ):
        monkeypatch.chdir(tmp_path / here)
        assert baselines_folder(Path(name)).resolve() == tmp_path / "run-baselines"
    assert baselines_folder(Path("runs/tiny")) == Path("runs/tiny-baselines")


@pytest.mark.parametrize(
    "privacy", [{}, {"unit": "patient", "max_records_per_unit": 3}], ids=["records", "patients"]
)
def test_the_share_that_is_cut_follows_the_clipping_norm(
    write_plan: PlanWriter, privacy: dict[str, object]
) -> None:
    path = write_plan(privacy=privacy)
    plan = load_plan(path)
    sites = list(read_site_records(plan).values())

    def share(norm: float) -> float | None:
        fields = plan.model_dump()
        fields["privacy"] |= {"clipping_norm": norm}
        contract, model = prepare(Plan.model_validate(fields), path.parent)
        bench = Workbench(contract, model)
        return share_cut(contract, bench, sites, bench.initial_adapter)

    assert share(1e-6) == 1.0
    assert share(1e6) == 0.0


def test_no_share_is_told_where_no_fixed_norm_cuts(write_plan: PlanWriter) -> None:
    path = write_plan(privacy={"clipping": {"kind": "automatic"}})
    plan = load_plan(path)
    contract, model = prepare(plan, path.parent)
    bench = Workbench(contract, model)
    adapter = np.zeros(bench.space.dimension, np.float32)
    assert share_cut(contract, bench, list(read_site_records(plan).values()), adapter) is None
    assert Path(model).is_dir()
