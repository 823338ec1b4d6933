"""A run whose ε is all that its sites allow survives being killed, and whatever it has can be had."""

import json
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.client.trainer import Trainer
from hortus.planning.plan_file import load_plan
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.gradients import units
from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError
from hortus.runtime.metric import values
from hortus.server import round_loop as federation
from hortus.server.run.records import RoundRecord, read_run
from hortus.server.run.results import is_complete
from hortus.server.run.store import RunStore
from hortus.server.run.view import State, read_view
from hortus.simulation.simulate import SimulatedRun, simulate
from tests.conftest import write_records

pytestmark = pytest.mark.minutes

SITES = ("ash", "birch", "cedar")


def run(path: Path, out: Path, **options: Any) -> SimulatedRun:
    return simulate(load_plan(path), path, out, lambda *_: None, **options)


class Kill(BaseException):
    """Ends a run at once: nothing handles it."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Arms a method of the run to end the run when it is called for the n-th time."""

    def arm(owner: Any, name: str, call: int, *, after: bool = False) -> None:
        original, calls = getattr(owner, name), iter(range(1000))

        def dying(*arguments: Any, **options: Any) -> Any:
            number = next(calls)
            if number == call and not after:
                raise Kill
            result = original(*arguments, **options)
            if number == call:
                raise Kill
            return result

        monkeypatch.setattr(owner, name, dying)

    return arm


def _check(result: SimulatedRun, path: Path, charges: int) -> None:
    """The run is whole, its ledgers sound, and no site has spent more than the plan's ε."""
    plan = load_plan(path)
    assert plan.privacy.epsilon is not None
    assert is_complete(result.directory, plan.training.rounds)
    assert result.store.is_over
    for site in result.consortium.sites:
        evidence = collect(result.consortium.site(site), site)
        audited = audit(evidence, evidence.roster)
        assert audited.first_broken is None
        assert audited.entries == charges + 1  # the approval
        assert audited.rounds[-1].epsilon_so_far <= plan.privacy.epsilon
    view = read_view(result.directory)
    assert view.state is State.FINISHED
    assert result.store.rounds[-1].epsilon == pytest.approx(view.epsilon, abs=1e-9)


PLACES = {
    "before any site hears of a sum": ("distributed", RunStore, "note_attempt", 0, False, 0),
    "when a sum is made": ("distributed", RunStore, "note_attempt", 3, True, 1),
    "when a sum is made and not durable": ("distributed", RunStore, "commit_sums", 1, False, 1),
    "the same with local noise": ("local", RunStore, "commit_sums", 1, False, 1),
    "when a sum is durable": ("distributed", RunStore, "commit_sums", 1, True, 0),
    "when the last round is made": ("distributed", RunStore, "commit", 1, False, 1),
    "when it lacks its adapter": ("distributed", federation, "write_results", 2, False, 0),
}


@pytest.mark.parametrize(
    ("noise", "owner", "name", "call", "after", "cost"), PLACES.values(), ids=PLACES.keys()
)
def test_a_kill_costs_one_attempt_at_most_and_the_run_ends_within_its_budget(
    write_plan: Any,
    tmp_path: Path,
    killed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    noise: str,
    owner: Any,
    name: str,
    call: int,
    after: bool,
    cost: int,
) -> None:
    path = write_plan(privacy={"noise": noise, "spare_attempts": 1})
    killed(owner, name, call, after=after)
    with pytest.raises(Kill):
        run(path, tmp_path / "run")
    monkeypatch.undo()
    _check(run(path, tmp_path / "run"), path, charges=4 + cost)


def test_a_resumed_round_has_the_bits_of_a_whole_one(
    write_plan: Any,
    tmp_path: Path,
    killed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_plan(privacy={"clipping": {"kind": "adaptive", "rate": 0.5}})
    whole = run(path, tmp_path / "whole")
    for call in (0, 1):
        killed(RunStore, "commit_sums", call, after=True)
        with pytest.raises(Kill):
            run(path, tmp_path / "cut")
        monkeypatch.undo()
        shutil.move(tmp_path / "cut", tmp_path / f"cut-{call}")
        resumed = run(path, tmp_path / f"cut-{call}")
        assert resumed.adapter.tobytes() == whole.adapter.tobytes()


def _failing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site of 61 records loses its vector, so that the sum is made again without it."""
    vector = Trainer.vector

    def failing(self: Trainer, *arguments: Any) -> Any:
        if len(self._records) == 61:
            raise HortusError("the disk is full")
        return vector(self, *arguments)

    monkeypatch.setattr(Trainer, "vector", failing)


def test_a_lost_site_is_paid_for_by_the_spare_attempts(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_plan(privacy={"spare_attempts": 1})
    write_records(tmp_path / "cedar.csv", 61)
    _failing_once(monkeypatch)
    result = run(path, tmp_path / "run")
    assert [record.attempts for record in result.store.rounds] == [3, 2]
    assert result.store.rounds[-1].epsilon <= 50


def test_without_spare_attempts_the_refusal_names_what_helps_and_it_does(
    write_plan: Any,
    tmp_path: Path,
    killed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_plan(privacy={"spare_attempts": 0})
    out = tmp_path / "the run"
    killed(RunStore, "commit", 0)
    with pytest.raises(Kill):
        run(path, out)
    monkeypatch.undo()
    runner = CliRunner()
    stopped = runner.invoke(app, ["simulate", str(path), "--out", str(out)])
    assert stopped.exit_code == 3
    assert "join_deadline" not in stopped.output
    assert "kept after round 1" in stopped.output
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert (out / "adapter-best" / "adapter_model.safetensors").is_file()
    assert "its budget is spent" in (out / "report.html").read_text()
    with pytest.raises(CohortTooSmall) as refusal:
        run(path, out)
    commands = re.findall(r"^ *(hortus budget grant .*)$", str(refusal.value.remedy), re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        granted = runner.invoke(app, shlex.split(command)[1:])
        assert granted.exit_code == 0, granted.output
    assert is_complete(run(path, out).directory, 2)


@pytest.mark.parametrize(
    "stop",
    [KeyboardInterrupt, HortusError("the disk is full"), MemoryError],
    ids=["Ctrl-C or SIGTERM", "an error", "a defect"],
)
def test_however_a_run_stops_it_leaves_adapter_and_report(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    path, out = write_plan(), tmp_path / "run"
    begun: list[AttemptRecord] = []
    note_attempt = RunStore.note_attempt

    def stopping(self: RunStore, record: AttemptRecord) -> None:
        begun.append(record)
        if len(begun) == 6:  # two notes of each attempt: in the second round
            raise stop
        note_attempt(self, record)

    monkeypatch.setattr(RunStore, "note_attempt", stopping)
    done = CliRunner().invoke(app, ["simulate", str(path), "--out", str(out)])
    assert done.exit_code not in (0, 3)
    assert "kept after round 1" in done.output
    assert json.loads((out / "adapter" / "hortus.json").read_text())["round"] == 1
    report = (out / "report.html").read_text()
    assert 'class="state stopped"' in report
    assert "1 <small>of 2</small>" in report


def test_an_interrupted_run_does_not_wait_for_long_steps_and_pays_nothing_for_them(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, begun = units.backward, threading.Event()

    def slow(batch: Any, model: Any) -> None:
        begun.set()
        time.sleep(0.5)
        backward(batch, model)

    def interrupt(stage: str) -> None:
        if stage.startswith("round 1"):
            assert begun.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr(units, "backward", slow)
    training = {"rounds": 1, "steps_per_round": 1, "sampling_rate": 1.0, "micro_batch": 1}
    path, out = write_plan(training=training), tmp_path / "out"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(path, out, on_stage=interrupt)
    assert time.monotonic() - started < 15, "all passes of all sites take 90 s"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("node")]
    monkeypatch.setattr(units, "backward", backward)
    finished = run(path, out)
    for site in SITES:
        evidence = collect(finished.consortium.site(site), site)
        assert len(audit(evidence, evidence.roster).charges) == finished.contract.steps


def test_the_best_adapter_is_that_of_the_best_round(write_plan: Any, tmp_path: Path) -> None:
    result = run(write_plan(training={"rounds": 4, "steps_per_round": 1}), tmp_path / "run")
    rounds = result.store.rounds
    best = max(rounds, key=lambda one: (values(one.metrics)["accuracy"], one.round))
    about = json.loads((result.directory / "adapter-best" / "hortus.json").read_text())
    assert about["round"] == best.round + 1
    (reached,) = [one["value"] for one in about["metrics"] if one["primary"]]
    assert reached == values(best.metrics)["accuracy"]


# What a run's folder is tied to.


def _records(tmp_path: Path) -> None:
    write_records(tmp_path / "ash.csv", 60, 1)


def _evaluation(tmp_path: Path) -> None:
    write_records(tmp_path / "test.csv", 60, 102)


def _weights(tmp_path: Path) -> None:
    with (tmp_path / "model" / "config.json").open("a") as file:
        file.write(" ")


@pytest.mark.parametrize(
    ("change", "named"),
    [(_records, r"ash\.csv has changed"), (_evaluation, r"test\.csv"), (_weights, "the files of")],
)
def test_a_finished_run_is_not_shown_as_that_of_changed_files(
    write_plan: Any, tmp_path: Path, tiny_model: Path, change: Any, named: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = write_plan(model="model", training={"rounds": 1})
    first = run(path, tmp_path / "run")
    change(tmp_path)
    with pytest.raises(UsageError, match=named):
        run(path, tmp_path / "run")
    assert run(path, tmp_path / "run", force=True).store.run != first.store.run


def test_a_whole_project_may_be_moved_in_the_middle_of_a_run(
    write_plan: Any,
    tmp_path: Path,
    tiny_model: Path,
    killed: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plan, model, records and run lie beside one another, and name one another by relative paths."""
    shutil.copytree(tiny_model, tmp_path / "model")
    path = write_plan(model="model")
    killed(RunStore, "commit", 1)
    with pytest.raises(Kill):
        run(path, tmp_path / "runs" / "tiny")
    monkeypatch.undo()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("plan.yaml", "model", "runs", "test.csv", *(f"{site}.csv" for site in SITES)):
        shutil.move(tmp_path / name, moved / name)
    result = run(moved / "plan.yaml", moved / "runs" / "tiny")
    _check(result, moved / "plan.yaml", charges=5)
    for file in (moved / "runs" / "tiny" / "consortium").rglob("*.yaml"):
        assert str(tmp_path) not in file.read_text(), file


def test_a_second_start_is_refused_and_the_first_is_not_disturbed(
    write_plan: Any, tmp_path: Path
) -> None:
    path, refused = write_plan(), []

    def start_again(_: RoundRecord, __: Mapping[str, float]) -> None:
        for options in ({}, {"force": True}):
            with pytest.raises(HortusError, match="another process is working") as error:
                run(path, tmp_path / "run", **options)
            refused.append(error)

    result = simulate(load_plan(path), path, tmp_path / "run", start_again)
    assert len(refused) == 4
    _check(result, path, charges=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"labels": ["warm", "fresh", "cool", "odd"]}}, "no site has a record of 'odd'"),
        ({"cohort": {"minimum": 4}}, "there are 3 sites"),
        ({"adapter": {"kind": "lora", "targets": ["qkv"]}}, "no linear layer 'qkv'"),
        ({"simulation": {"budgets": {"oak": 1.0}}}, "no site 'oak'"),
        ({"simulation": {"budgets": dict.fromkeys(SITES, 1e-3)}}, "0 of 3 connected sites"),
        ({"task": {"text": "words"}}, "no column 'words'"),
    ],
)
def test_a_start_that_failed_is_in_the_way_of_no_corrected_plan(
    write_plan: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HortusError, match=message):
        run(write_plan(**changes), tmp_path / "run")
    path = write_plan(training={"rounds": 1})
    assert is_complete(run(path, tmp_path / "run").directory, 1)
    assert len(read_run(tmp_path / "run").rounds) == 1
