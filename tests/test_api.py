"""The public Python API: what it exports, and that it does what the commands do."""

import inspect
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import hortus
from hortus import api
from hortus.planning.plan_file import load_plan
from hortus.simulation.prospect import prospect

Tiny = Callable[..., Path]
# What Python itself, and the hook of an editable install, load before anything is imported.
PROGRAM = """
import sys
before = set(sys.modules)
import hortus
{use}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""
HEAVY = {"torch", "flwr", "transformers", "peft", "opacus", "scipy", "matplotlib", "sklearn"}


def loads(use: str) -> set[str]:
    """Returns the modules that a program loads after Python's own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(use=use)], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_hortus_imports_next_to_nothing() -> None:
    assert loads("") <= {"hortus", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("program", "seconds"),
    [
        (["-c", "import hortus"], 0.1),
        (["-c", "from hortus.cli.main import app; app(['--help'])"], 0.3),
    ],
    ids=["import hortus", "hortus --help"],
)
def test_a_start_takes_little_of_the_processor(program: list[str], seconds: float) -> None:
    """With five times the promise, which is about a machine with nothing else to do."""
    least = math.inf
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *program], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert least < 5 * seconds


@pytest.mark.parametrize(
    "use",
    [
        "hortus.Plan, hortus.cost, hortus.simulate, hortus.audit, hortus.HortusError",
        "[registry.names() for registry in hortus.kinds.values()]",
        "hortus.__version__, dir(hortus)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(use: str) -> None:
    assert not loads(use) & HEAVY


def test_exactly_what_the_api_lists_is_exported() -> None:
    assert set(hortus.__all__) == {*api.__all__, "__version__"}
    assert dir(hortus) == sorted(hortus.__all__)
    assert all(getattr(hortus, name) is getattr(api, name) for name in api.__all__)
    assert hortus.__all__ == sorted(hortus.__all__)
    with pytest.raises(AttributeError, match="'hortus' has no attribute 'Plam'"):
        _ = hortus.Plam


@pytest.mark.parametrize("name", [name for name in api.__all__ if name != "kinds"])
def test_everything_exported_is_documented_and_typed(name: str) -> None:
    one = getattr(api, name)
    public = [one]
    if inspect.isclass(one) and one is not hortus.HortusError:
        public += [value for key, value in vars(one).items() if not key.startswith("_")]
    for member in public:
        plain = member.__func__ if isinstance(member, classmethod) else member
        plain = plain.fget if isinstance(plain, property) else plain
        if callable(plain):
            assert inspect.getdoc(plain), plain
            assert "return" in plain.__annotations__ or inspect.isclass(plain)


def test_the_kinds_are_those_that_plans_can_name() -> None:
    assert "fedsgd" in hortus.kinds["strategy"].names()
    assert "Adam" in hortus.kinds["optimizer"].names()


def built(path: Path, **changes: Any) -> hortus.Plan:
    """Returns the plan of a file, built in code."""
    fields = yaml.safe_load(path.read_text())
    return hortus.Plan(**(fields | changes), folder=path.parent)


def test_a_plan_built_in_code_is_the_plan_of_the_file(write_plan: Tiny, tmp_path: Path) -> None:
    path = write_plan()
    plan = built(path)
    assert plan == hortus.Plan.load(path)
    assert plan != built(path, seed=4)
    assert plan.fields["privacy"]["clipping_norm"] == 1.0
    saved = plan.save(tmp_path / "elsewhere" / "saved.yaml")
    assert load_plan(saved) == load_plan(path)


def test_a_kind_may_stand_for_its_section(write_plan: Tiny) -> None:
    strategy = hortus.kinds["strategy"].complete({"kind": "fedsgd"})
    plan = built(write_plan(), strategy=strategy)
    assert plan.fields["strategy"] == strategy.model_dump(mode="json")


def test_files_may_be_paths(write_plan: Tiny, tmp_path: Path) -> None:
    path = write_plan()
    sites = {site: tmp_path / f"{site}.csv" for site in ("ash", "birch", "cedar")}
    assert built(path, evaluation=Path("test.csv"), simulation={"sites": sites}) == built(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "No"}, "name"),
        ({"training": {"rounds": 0}}, "training.rounds"),
        ({"privacy": {"epsilom": 1}}, "epsilon"),
        ({"strategy": {"kind": "fedsdg"}}, "fedsgd"),
        ({"task": {"labels": "missing.txt"}}, "task.labels"),
    ],
)
def test_a_wrong_plan_is_explained(
    write_plan: Tiny, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(hortus.HortusError, match=expected):
        built(write_plan(), **changes)


def test_settings_replace_values_of_the_file(write_plan: Tiny) -> None:
    plan = hortus.Plan.load(write_plan(), ["training.rounds=5", "seed=9"])
    assert (plan.fields["training"]["rounds"], plan.fields["seed"]) == (5, 9)


def test_the_cost_is_what_the_command_prints(write_plan: Tiny) -> None:
    path = write_plan()
    cost = hortus.cost(hortus.Plan.load(path))
    what = prospect(load_plan(path), path.parent, None)
    assert cost.epsilon == what.cost.epsilon(1e-3) <= 50.0
    assert cost.epsilon_unspared < cost.epsilon
    assert (cost.releases, cost.parameters) == (what.cost.releases, what.dimension)
    assert cost.noise_multiplier == what.contract.privacy.noise_multiplier


def test_a_plan_is_simulated_resumed_and_audited(write_plan: Tiny, tmp_path: Path) -> None:
    plan, seen = hortus.Plan.load(write_plan()), list[hortus.Round]()
    run = hortus.simulate(plan, on_round=seen.append)
    assert run.directory == tmp_path / "runs" / "tiny"
    assert [one.number for one in run.rounds] == [1, 2]
    assert tuple(seen) == run.rounds
    assert run == hortus.Run.open(run.directory) == hortus.simulate(plan)
    assert run.metrics == seen[-1].metrics
    assert run.best in seen
    assert str(seen[0]).startswith("round 1 of 2: accuracy ")
    found = hortus.audit(run)
    assert found.holds, found
    assert set(found.epsilon) == {"ash", "birch", "cedar"}
    assert max(found.epsilon.values()) == pytest.approx(run.epsilon, rel=1e-3)
    alone = hortus.audit(run.directory / "consortium" / "sites" / "ash")
    assert (alone.errors, tuple(alone.epsilon)) == ((), ("ash",))


def test_a_path_that_is_missing_is_named(write_plan: Tiny) -> None:
    with pytest.raises(hortus.HortusError, match="no such file"):
        hortus.audit(write_plan().parent / "nothing")
