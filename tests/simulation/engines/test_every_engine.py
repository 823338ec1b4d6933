"""What holds of every simulation engine, whoever wrote it: a new kind is in here with its name."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import write_records, write_tiny_plan
from typer.testing import CliRunner

import hortus
from hortus.cli.main import app
from hortus.client.trainer import Trainer
from hortus.planning.plan_file import load_plan
from hortus.protocol.section import Section
from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError
from hortus.server.run.accounts import ACCOUNTS
from hortus.server.run.records import RoundRecord
from hortus.server.run.store import RunStore
from hortus.server.run.view import State, read_view
from hortus.simulation.engines.kinds import ENGINES, engine_of, with_engine
from hortus.simulation.report import report_run
from hortus.simulation.shared_workbench import SharedWorkbench
from hortus.simulation.simulate import SimulatedRun, simulate

every_engine = pytest.mark.parametrize("name", ENGINES.names())
every_other = pytest.mark.parametrize("name", sorted(set(ENGINES.names()) - {"rehearsal"}))
SITES = ("ash", "birch", "cedar")
LOCAL = {"noise": "local", "epsilon": 50.0, "delta": 1e-3}
GENEROUS = {"budgets": dict.fromkeys(SITES, 100.0)}

# What every engine must make the same bits of. `failing` names a site whose steps fail.
CASES: dict[str, dict[str, Any]] = {
    "distributed, adaptive, patients": {
        "privacy": {"unit": "patient", "max_records_per_unit": 2, "clipping_norm": 0.5}
        | {"clipping": {"kind": "adaptive", "rate": 0.5}}
    },
    "local, several local steps": {
        "privacy": LOCAL,
        "training": {"steps_per_round": 1, "local_steps": 3},
        "strategy": {
            "kind": "fedavg",
            "local_optimizer": {"kind": "SGD", "learning_rate": 0.5},
        },
    },
    "no noise, small ring, head": {
        "privacy": {"noise": "unsafe_none", "epsilon": None, "ring_bits": 24},
        "adapter": {"kind": "head"},
    },
    "a budget that ends on the way": {
        "privacy": {"spare_attempts": 0},
        "simulation": {"budgets": {"birch": 45.0}},
    },
    "a budget for no step at all": {"simulation": {"budgets": {"birch": 0.001}}},
    "distributed, a site fails": {"simulation": GENEROUS, "failing": "cedar"},
    "local, a site fails": {"privacy": LOCAL, "simulation": GENEROUS, "failing": "cedar"},
}


SHARED = SharedWorkbench()  # most of what a tiny run takes is to load and check its model


def run(path: Path, name: str, out: Path, stop_after: int | None = None) -> SimulatedRun:
    def observe(record: RoundRecord, _: Mapping[str, float]) -> None:
        if record.round == stop_after:
            raise KeyboardInterrupt

    return simulate(with_engine(load_plan(path), name), path, out, observe, shared=SHARED)


@pytest.fixture(scope="module")
def run_case(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Callable[[str, str], SimulatedRun]:
    """Runs a case with an engine, once."""

    @cache
    def of(case: str, name: str) -> SimulatedRun:
        folder = tmp_path_factory.mktemp("case")
        changes = dict(CASES[case])
        failing = changes.pop("failing", None)
        path = write_tiny_plan(folder, tiny_model, **changes)
        with pytest.MonkeyPatch.context() as patched:
            if failing:
                write_records(folder / f"{failing}.csv", 61)
                patched.setattr(Trainer, "vector", _failing_for(61, Trainer.vector))
            return run(path, name, folder / "run")

    return of


def _failing_for(records: int, vector: Any) -> Any:
    def failing(self: Trainer, *arguments: Any) -> Any:
        if len(self._records) == records:
            raise HortusError("the disk is full")
        return vector(self, *arguments)

    return failing


@every_engine
def test_it_is_explained_and_a_section_comes_back_as_it_went(name: str) -> None:
    engine = ENGINES.complete({"kind": name})
    assert ENGINES.parse(engine.section) == engine
    assert Section.model_validate(json.loads(engine.section.model_dump_json())) == engine.section
    first = (type(engine).__doc__ or "").splitlines()[0]
    assert first[:1].isupper()
    assert first.endswith(".")
    assert engine.keeps_ledgers in (True, False)


def test_to_read_a_plan_of_any_engine_takes_neither_torch_nor_flower() -> None:
    program = """
import sys
from hortus.simulation.engines.kinds import ENGINES
for name in ENGINES.names():
    ENGINES.kind(name)
assert not {"torch", "numpy", "flwr"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@every_other
@pytest.mark.parametrize("case", CASES)
def test_its_bits_sites_and_costs_are_those_of_the_rehearsal(
    run_case: Callable[[str, str], SimulatedRun], case: str, name: str
) -> None:
    """Masks cancel exactly, and whatever else it leaves out changes no bit."""
    rehearsed, found = run_case(case, "rehearsal"), run_case(case, name)
    assert found.adapter.any()
    assert found.adapter.tobytes() == rehearsed.adapter.tobytes()
    for one, other in zip(found.store.rounds, rehearsed.store.rounds, strict=True):
        assert asdict(one) == asdict(other)
    left = [[(d.round, d.site) for d in r.store.departures] for r in (found, rehearsed)]
    assert left[0] == left[1]
    assert found.cut == rehearsed.cut
    for one, other in zip(*(read_view(r.directory).sites for r in (found, rehearsed)), strict=True):
        assert (one.name, one.spent, one.charges) == (other.name, other.spent, other.charges)
        assert one.budget == other.budget
        if one.spent is not None:
            assert one.points == other.points


@every_engine
def test_a_run_that_is_killed_within_a_round_resumes_to_the_same_bits(
    write_plan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    path = write_plan()
    whole = run(path, name, tmp_path / "whole")
    commit, calls = RunStore.commit_sums, iter(range(9))

    def dying(self: RunStore, *arguments: Any) -> None:
        commit(self, *arguments)
        if next(calls) == 1:  # the first sum of the second round is durable
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "commit_sums", dying)
        with pytest.raises(KeyboardInterrupt):
            run(path, name, tmp_path / "cut")
    assert read_view(tmp_path / "cut").state is State.STOPPED
    resumed = run(path, name, tmp_path / "cut")
    assert resumed.adapter.tobytes() == whole.adapter.tobytes()
    views = [read_view(one.directory) for one in (resumed, whole)]
    assert [view.state for view in views] == [State.FINISHED] * 2
    assert views[0].epsilon == views[1].epsilon
    again = run(path, name, tmp_path / "cut", stop_after=1)  # nothing is left to do
    assert again.adapter.tobytes() == whole.adapter.tobytes()


@every_engine
def test_what_a_site_has_spent_is_never_less_than_what_it_released(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A sum that a kill has come after is charged, although nobody knows it."""
    path = write_plan()
    note, calls = RunStore.note_attempt, iter(range(99))

    def dying(self: RunStore, record: Any) -> None:
        note(self, record)
        if next(calls) == 1:  # the first attempt is settled
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "note_attempt", dying)
        with pytest.raises(KeyboardInterrupt):
            run(path, name, tmp_path / "run")
    result = run(path, name, tmp_path / "run")
    assert {site.charges for site in read_view(result.directory).sites} == {5}
    assert result.store.rounds[-1].epsilon == read_view(result.directory).epsilon


@every_other
def test_a_run_of_another_engine_is_another_run(
    run_case: Callable[[str, str], SimulatedRun], name: str
) -> None:
    done = run_case("a budget for no step at all", "rehearsal")
    with pytest.raises(UsageError, match=rf'simulation.engine.kind: was "rehearsal", is "{name}"'):
        run(done.directory.parent / "plan.yaml", name, done.directory)


@every_engine
def test_its_report_says_what_its_figures_rest_on(
    run_case: Callable[[str, str], SimulatedRun], tmp_path: Path, name: str
) -> None:
    done = run_case("a budget for no step at all", name)
    plan = load_plan(done.directory / "plan.yaml")
    report_run(done.directory, plan, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    keeps = ENGINES.kind(name).keeps_ledgers
    assert ("hortus audit" in page) == keeps
    assert ("Nothing was\ncharged in a ledger" in page) == (not keeps)
    assert ("From each site’s own ledger" in page) == keeps
    audited = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["audit", str(done.directory)])
    assert audited.exit_code == (0 if keeps else 2)
    assert ("--engine rehearsal" in audited.output) == (not keeps)


@every_engine
def test_too_few_sites_end_the_run_with_their_reasons(
    write_plan: Any, tmp_path: Path, name: str
) -> None:
    path = write_plan(simulation={"budgets": {"birch": 0.001, "cedar": 0.001}})
    with pytest.raises(CohortTooSmall, match=r"1 of 3 .*birch: .*cedar: "):
        run(path, name, tmp_path / "run")


@every_engine
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"simulation": {"budgets": {"oak": 1.0}}}, "no site 'oak'"),
        ({"cohort": {"minimum": 4}}, "there are 3 sites"),
        ({"simulation": None}, "whose records"),
    ],
    ids=["budget", "sites", "no records"],
)
def test_a_plan_that_cannot_work_is_explained(
    write_plan: Any, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(write_plan(**changes), name, tmp_path / "run")


def test_in_process_there_are_no_keys_messages_or_threads_of_sites(
    run_case: Callable[[str, str], SimulatedRun],
    write_plan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = run_case("a budget for no step at all", "in-process")
    found = {path.name for path in done.directory.rglob("*")}
    assert ACCOUNTS in found
    assert not {"consortium", "records", "keys", "ledger.sqlite", "policy.yaml"} & found
    threads, vector = set[str](), Trainer.vector

    def watched(self: Trainer, *arguments: Any) -> Any:
        threads.add(threading.current_thread().name)
        return vector(self, *arguments)

    monkeypatch.setattr(Trainer, "vector", watched)
    path = write_plan(training={"rounds": 1, "steps_per_round": 1})
    run(path, "in-process", tmp_path / "run")
    assert threads == {threading.main_thread().name}


def test_the_command_and_the_api_choose_an_engine(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan(training={"rounds": 1, "steps_per_round": 1})
    chosen = ["simulate", str(path), "--engine", "in-process"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, chosen)
    assert done.exit_code == 0, done.output
    assert "from the accountant; no ledger was charged" in done.output
    assert "ledger.sqlite" not in done.output
    kept = load_plan(tmp_path / "runs" / "tiny" / "plan.yaml")
    assert engine_of(kept).kind == "in-process"
    rounds = list[hortus.Round]()
    again = hortus.simulate(hortus.Plan.load(path), engine="in-process", on_round=rounds.append)
    assert (again.directory, rounds) == (tmp_path / "runs" / "tiny", [])
    assert "in-process" in hortus.kinds["simulation engine"].names()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "in-proces"], "--engine.kind .*Did you mean 'in-process'"),
        (
            ["--set", "simulation.engine={kind: rehersal}"],
            "simulation.engine.kind .*Did you mean 'rehearsal'",
        ),
        (
            ["--set", "simulation.engine={transprt: grpc}"],
            "simulation.engine.*did you mean transport",
        ),
        (
            ["--set", "simulation.engine={kind: in-process, transport: grpc}"],
            "simulation.engine.transport",
        ),
        (["--set", "simulation.engine=7"], "simulation.engine"),
    ],
    ids=["option", "kind", "key", "another engine's key", "number"],
)
def test_a_slip_is_reported_before_anything_runs(
    write_plan: Any, tmp_path: Path, options: list[str], said: str
) -> None:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["simulate", str(write_plan()), *options])
    assert done.exit_code == 2
    assert not (tmp_path / "runs").exists()
    told = " ".join(done.output.replace("│", " ").split())
    assert re.search(said, told), told


def test_an_engine_that_a_plan_has_already_keeps_its_values(write_plan: Any) -> None:
    engine = {"kind": "rehearsal", "transport": "grpc"}
    plan = load_plan(write_plan(simulation={"engine": engine}))
    assert with_engine(plan, "rehearsal") == with_engine(plan, None) == plan
    other = with_engine(plan, "in-process")
    assert engine_of(other).kind == "in-process"
    pinned: dict[str, Any] = {"model_digest": "a" * 64, "noise_multiplier": 1.0}
    assert other.contract(**pinned) == plan.contract(**pinned), "sites approve the same"
