"""A relative `model:` is the folder beside the plan, in every command and for every agent."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.client.site.folder import Site, keep_model
from hortus.parties.folders import Consortium, ServerConfig, SiteConfig
from hortus.parties.founding import create_consortium
from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import prepare
from hortus.protocol.policy import Budget, Policy

SITES = ("ash", "birch", "cedar")
FOLDERS = ("model", "./model", "base/models/tiny", "../beside/model", "a model, éncore")


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """Sites whose folders lie somewhere else than any plan."""
    policy = Policy(budget=Budget(epsilon=50, delta=1e-3), min_cohort=2, min_honest=1)
    server = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    data = {site: tmp_path / "plans" / f"{site}.csv" for site in SITES}
    return create_consortium(
        tmp_path / "hospital" / "c", data, dict.fromkeys(SITES, policy), server, datetime.now(UTC)
    )


@pytest.fixture
def plan_with(tmp_path: Path, tiny_model: Path, write_plan: Any) -> Any:
    """Writes a plan into a folder of its own, and its model where the plan says."""

    def write(folder: str) -> Path:
        plans = tmp_path / "plans"
        plans.mkdir()
        shutil.copytree(tiny_model, plans / folder)
        plan = write_plan(model=folder, cohort={"minimum": 3, "max_colluding": 1})
        for file in (*tmp_path.glob("*.csv"), plan):
            shutil.move(file, plans / file.name)
        return plans / "plan.yaml"

    return write


def _hortus(*arguments: object) -> str:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("folder", FOLDERS)
def test_it_is_the_same_folder_when_planned_approved_and_trained_with(
    plan_with: Any, consortium: Consortium, folder: str
) -> None:
    path = plan_with(folder)
    contract, model = prepare(load_plan(path), path.parent)
    directory = consortium.site("ash").directory
    # Also where the working folder is another one, and the plan's path relative to it.
    shown = os.path.relpath(path)
    assert "refuses the plan" not in _hortus("plan", shown, "--site", directory)
    _hortus("approve", directory, shown)
    with Site(directory, clock=lambda: 1.0) as site:
        assert site.model_path(contract).samefile(model)
        assert site.model_digest(contract) == contract.model_digest


def test_a_folder_that_site_yaml_names_comes_first(
    plan_with: Any, consortium: Consortium, tmp_path: Path, tiny_model: Path
) -> None:
    path = plan_with("model")
    contract, model = prepare(load_plan(path), path.parent)
    files = consortium.site("ash")
    keep_model(files, contract, model)
    config = SiteConfig.load(files.config)
    shutil.copytree(tiny_model, tmp_path / "hospital" / "own")
    config.model_copy(update={"model": "../../../own"}).save(files.config)
    with Site(files.directory, clock=lambda: 1.0) as site:
        assert site.model_path(contract).samefile(tmp_path / "hospital" / "own")
