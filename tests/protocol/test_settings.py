"""`--set KEY=VALUE` is read, checked and complained about as if it stood in the file."""

from pathlib import Path
from typing import Any

import pytest

from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.errors import UsageError

PLAN = """\
name: words
model: model
task: {labels: [bread, cake]}
training: {rounds: 1, sampling_rate: 0.5, nominal_units: 10}
privacy: {epsilon: 8}
evaluation:
simulation:
  sites: {north: n.csv, south: s.csv}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN, encoding="utf-8")
    (tmp_path / "labels.txt").write_text("roll\nbun\n")
    return file


def value(plan: Plan, dotted: str) -> Any:
    found: Any = plan
    for key in dotted.split("."):
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    return found


@pytest.mark.parametrize(
    ("settings", "field", "expected"),
    [
        (["training.rounds=3"], "training.rounds", 3),
        (["privacy.epsilon=2"], "privacy.epsilon", 2.0),
        (["privacy.delta=1e-6"], "privacy.delta", 1e-6),
        ([" training . rounds = 3 "], "training.rounds", 3),
        (["task.labels=[roll, 'no']"], "task.labels", ["roll", "no"]),
        (["task.labels=labels.txt"], "task.labels", ["roll", "bun"]),
        (["adapter.rank=4"], "adapter.rank", 4),
        (["privacy.epsilon=", "privacy.noise_multiplier=2"], "privacy.noise_multiplier", 2.0),
        (["simulation.budgets.north=3"], "simulation.budgets.north", 3.0),
        (
            ["strategy.server_optimizer={kind: SGD}", "strategy.server_optimizer.learning_rate=2"],
            "strategy.server_optimizer.learning_rate",
            2.0,
        ),
        (["model=a=b"], "model", "a=b"),
    ],
)
def test_a_setting_stands_in_for_the_files_value(
    path: Path, settings: list[str], field: str, expected: object
) -> None:
    assert value(load_plan(path, settings), field) == expected


def test_paths_are_relative_to_the_plans_folder_as_in_the_file(path: Path) -> None:
    plan = load_plan(path, ["evaluation=test.csv", "simulation.sites.north=other.csv"])
    assert plan.evaluation == path.parent / "test.csv"
    assert plan.simulation is not None
    assert plan.simulation.sites == {
        "north": path.parent / "other.csv",
        "south": path.parent / "s.csv",
    }


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["training.rounds=x"],
            '--set training.rounds=x: training.rounds: "x" → should be a valid integer',
        ),
        (["training.rounds="], "--set training.rounds=: training.rounds: null → should be"),
        (
            ["training.round=3"],
            "--set training.round=3: training.round: there is no such key: did you mean rounds?",
        ),
        (
            ["trainig.rounds=3"],
            "--set trainig.rounds=3: trainig: there is no such key: did you mean training?",
        ),
        (
            ["strategy.server_optimizer.learning_rate=1"],
            "strategy.server_optimizer: it is not a mapping whose `kind` names the optimizer",
        ),
        (
            ["task.labels=[no, cake]"],
            "--set task.labels=[no, cake]: task.labels[0]: no → is read as",
        ),
        (
            ["task.labels=none.txt"],
            "--set task.labels=none.txt: task.labels: the list cannot be read from its file",
        ),
        (["simulation.sites.North=n.csv"], "--set simulation.sites.North=n.csv: simulation.sites"),
        (
            ["privacy.noise_multiplier=1"],
            "plan.yaml with --set privacy.noise_multiplier=1: privacy: give exactly one of",
        ),
        (
            ["adapter.kind=head", "adapter.rank=4"],
            "--set adapter.rank=4: adapter.rank: there is no such key: known are kind",
        ),
        (["training.rounds"], "--set training.rounds: this is not a key and value"),
        (["training..rounds=2"], "--set training..rounds=2: this is not a key and value"),
        (["=2"], "--set =2: this is not a key and value"),
        (["name.first=x"], "--set name.first=x: name has no keys"),
        (
            ["task.labels.0=x"],
            "task.labels has no keys — Set the whole value: --set task.labels",
        ),
        (["name=[a"], "--set name=[a: this is not YAML: expected"),
        (["name=*a"], "--set name=*a: this is not YAML: aliases"),
        (["name=\x1b[31m"], "--set name=�[31m: this is not YAML: special characters"),
        (["seed=2026-13-45"], "--set seed=2026-13-45: this is not YAML: a value is not what"),
        (
            ["name={a: 1, a: 2}"],
            "--set name={a: 1, a: 2}: this is not YAML: the key 'a' comes twice",
        ),
        (["seed=1", "seed=2"], "--set seed=2: it conflicts with --set seed=1"),
        (
            ["training.rounds=2", "training={rounds: 3}"],
            "--set training={rounds: 3}: it conflicts with --set training.rounds=2",
        ),
    ],
)
def test_an_error_names_the_setting(path: Path, settings: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_plan(path, settings)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_fault_of_the_file_is_still_the_files(path: Path) -> None:
    path.write_text(PLAN.replace("epsilon: 8", "epsilon: -8"))
    with pytest.raises(UsageError) as caught:
        load_plan(path, ["training.rounds=2"])
    assert str(caught.value).startswith(f"{path}: privacy.epsilon: -8 → should be greater")


def test_a_long_setting_is_named_on_one_short_line(path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_plan(path, [f"training.rounds=[{'x, ' * 500}]"])
    assert len(str(caught.value)) < 300
