"""`hortus simulate PLAN --set …` without --out: found again by the same command, kept as it was run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PlanWriter
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.planning.plan_file import load_plan
from hortus.server.run.records import read_run


@pytest.fixture
def simulate(write_plan: PlanWriter) -> Callable[..., tuple[int, str]]:
    """Runs a plan of one round and step with options; returns exit code and output."""
    path = write_plan(training={"rounds": 1, "steps_per_round": 1}, cohort={"minimum": 3})

    def run(*options: str) -> tuple[int, str]:
        runner = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"})
        done = runner.invoke(app, ["simulate", str(path), *options])
        return done.exit_code, done.output

    return run


def test_a_run_with_settings_has_a_folder_that_says_so_and_is_found_again(
    simulate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    settings = ("--set", "training.rounds=2", "--set", "seed=9")
    code, output = simulate(*settings)
    assert code == 0, output
    assert f"run             {runs / 'tiny'}\n" in output
    kept = load_plan(runs / "tiny" / "plan.yaml")
    assert (kept.training.rounds, kept.seed) == (2, 9)
    assert kept == load_plan(tmp_path / "plan.yaml", ["training.rounds=2", "seed=9"])
    first = read_run(runs / "tiny")
    assert len(first.rounds) == 2

    code, output = simulate(*settings)
    assert code == 0, output
    assert read_run(runs / "tiny").run == first.run
    assert [path.name for path in runs.iterdir()] == ["tiny"]

    code, output = simulate()
    assert code == 0, output
    told = f"{runs / 'tiny-2'}, since {runs / 'tiny'} holds another: seed: was 9, is 3; "
    assert told + "training.rounds: was 2, is 1" in output
    assert CliRunner().invoke(app, ["audit", str(runs / "tiny")]).exit_code == 0

    code, output = simulate("--out", str(runs / "tiny"))
    assert code == 2
    assert "training.rounds: was 2, is 1" in output
    assert read_run(runs / "tiny").run == first.run


def test_settings_cannot_change_the_plan_that_a_run_keeps(
    simulate: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, output = simulate("--out", str(tmp_path), "--set", "training.rounds=2")
    assert code == 2
    assert "--set cannot change it" in output
    assert load_plan(tmp_path / "plan.yaml").training.rounds == 1


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("training.round=2", "--set training.round=2: training.round: there is no such key"),
        ("model=nowhere", "nowhere"),
        ("evaluation=none.csv", "none.csv"),
        ("simulation.sites.ash=none.csv", "simulation.sites.ash"),
    ],
)
def test_a_slip_leaves_no_folder(
    simulate: Callable[..., tuple[int, str]], tmp_path: Path, setting: str, told: str
) -> None:
    code, output = simulate("--set", setting)
    assert code == 2
    assert told in output
    assert not (tmp_path / "runs").exists()
