"""Rounds reach the trackers that an operator names, each once, and no tracker ends a run."""

import logging
import threading
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from helpers.made_runs import classified, make_contract, make_plan
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import hortus
from hortus.cli.main import app
from hortus.parties.folders import ServerConfig
from hortus.protocol.plan import Contract
from hortus.runtime.errors import UsageError
from hortus.server.run.records import RoundRecord
from hortus.server.trackers import reporting as module
from hortus.server.trackers.base import Log, Tracked, Tracker
from hortus.server.trackers.reporting import read_trackers, reporting
from tests.conftest import PlanWriter

RUN = "5" * 32


def rounds(count: int) -> list[RoundRecord]:
    return [
        RoundRecord(n, ("ash", "birch"), 1, 1, 0.5 * (n + 1), classified(0.5 + n / 100))
        for n in range(count)
    ]


@pytest.fixture
def contract() -> Contract:
    return make_contract(make_plan())


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Returns what TensorBoard itself reads, by name and step."""
    read = EventAccumulator(str(folder)).Reload()  # type: ignore[no-untyped-call]
    return {
        tag: {event.step: event.value for event in read.Scalars(tag)}
        for tag in read.Tags()["scalars"]
    }


def test_tensorboard_shows_every_round_once_however_often_a_run_is_started(
    contract: Contract, tmp_path: Path
) -> None:
    done, (tracker,) = rounds(4), read_trackers(["tensorboard"])
    with reporting([tracker], RUN, contract, tmp_path) as report:
        for record in done[:2]:
            report(record)
    with reporting([tracker], RUN, contract, tmp_path, done[:3]) as report:
        report(done[3])
    found = scalars(tmp_path / "tracking" / "tensorboard")
    assert found["accuracy"] == pytest.approx({1: 0.5, 2: 0.51, 3: 0.52, 4: 0.53})
    assert found["epsilon"] == pytest.approx({1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0})
    assert set(found) == {"accuracy", "epsilon", "sites", "secure_sum_attempts"}


def test_no_event_says_when_it_was(contract: Contract, tmp_path: Path) -> None:
    """How long a round takes is decided by records, and is no business of a tracker's."""
    with reporting(read_trackers(["tensorboard"]), RUN, contract, tmp_path, rounds(3)):
        pass
    read = EventAccumulator(str(tmp_path / "tracking" / "tensorboard")).Reload()  # type: ignore[no-untyped-call]
    assert [event.wall_time for event in read.Scalars("accuracy")] == [1.0, 2.0, 3.0]


def test_mlflow_has_one_run_with_the_plan_and_every_round(
    contract: Contract, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    done, trackers = rounds(3), read_trackers([{"kind": "mlflow", "experiment": "tried"}])
    for count in (1, 3):
        with reporting(trackers, RUN, contract, tmp_path, done[:count]):
            pass
    client = mlflow.tracking.MlflowClient((tmp_path / "tracking" / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tried").experiment_id])
    history = client.get_metric_history(run.info.run_id, "accuracy")
    assert [(one.step, one.value, one.timestamp) for one in history] == [
        (1, 0.5, 1),
        (2, 0.51, 2),
        (3, 0.52, 3),
    ]
    assert run.data.params["contract"] == contract.digest()


def test_wandb_stays_in_files_without_a_key(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with reporting(
        read_trackers([{"kind": "wandb", "online": True}]), RUN, contract, tmp_path, rounds(2)
    ):
        pass
    (folder,) = (tmp_path / "tracking" / "wandb" / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert not list(folder.rglob("wandb-metadata.json"))


class Awkward(Tracker):
    """A tracker that fails, or hangs."""

    client: ClassVar[str] = "json"
    added: ClassVar[list[int]] = []
    fails: ClassVar[set[str]] = set()
    kind: Literal["awkward"] = "awkward"

    def open(self, tracked: Tracked) -> Log:
        if "open" in self.fails:
            raise ConnectionError("refused\x1b[2J")
        return self

    def add(self, number: int, values: Any) -> None:
        if "add" in self.fails:
            raise SystemError("full")
        if "hang" in self.fails:
            threading.Event().wait(5)
        self.added.append(number)

    def close(self) -> None:
        if "close" in self.fails:
            raise OSError("gone")


@pytest.mark.parametrize("fails", ["open", "add", "close"])
def test_a_tracker_that_fails_is_reported_once_and_ends_nothing(
    contract: Contract, tmp_path: Path, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    Awkward.added.clear()
    Awkward.fails = {fails}
    with caplog.at_level(logging.WARNING), reporting([Awkward()], RUN, contract, tmp_path) as tell:
        for record in rounds(3):
            tell(record)
    assert caplog.text.count("awkward fails, and the run continues") == 1
    assert "\x1b" not in caplog.text
    assert Awkward.added == ([1, 2, 3] if fails == "close" else [])


def test_what_a_tracker_missed_is_reported_when_it_is_back(
    contract: Contract, tmp_path: Path
) -> None:
    Awkward.added.clear()
    Awkward.fails = {"open"}
    done = rounds(4)
    with reporting([Awkward()], RUN, contract, tmp_path) as tell:
        tell(done[0])
        tell(done[1])
        time.sleep(0.2)
        Awkward.fails = set()
        tell(done[2])
    assert Awkward.added == [1, 2, 3]
    with reporting([Awkward()], RUN, contract, tmp_path, done):
        pass
    assert Awkward.added == [1, 2, 3, 4]


def test_a_tracker_that_hangs_is_left_behind(
    contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FAREWELL_SECONDS", 0.1)
    Awkward.fails = {"hang"}
    begun = time.monotonic()
    with reporting([Awkward()], RUN, contract, tmp_path, rounds(3)):
        pass
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (["tensorbord"], "Did you mean 'tensorboard'"),
        ([{"kind": "mlflow", "url": "x"}], "url"),
        ([{"uri": "x"}], "`kind` names the tracker"),
        (["tensorboard", {"kind": "tensorboard"}], "comes twice"),
    ],
)
def test_a_slip_is_refused_before_anything_runs(sections: list[Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_trackers(sections)


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'hortus\[mlflow\]'"):
        read_trackers(["mlflow"])


def test_the_server_reads_them_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(
        "aggregation: 127.0.0.1:1\nsuperlink: 127.0.0.1:2\n"
        "report_to: [tensorboard, {kind: mlflow, uri: http://127.0.0.1:5000}]\n"
    )
    assert ServerConfig.load(path).report_to == (
        "tensorboard",
        {"kind": "mlflow", "uri": "http://127.0.0.1:5000"},
    )


def test_a_simulation_reports_and_resumes(write_plan: PlanWriter, tmp_path: Path) -> None:
    path, out = write_plan(training={"rounds": 2, "steps_per_round": 1}), tmp_path / "run"
    plan = hortus.Plan.load(path)
    run = hortus.simulate(plan, out=out, report_to=["tensorboard"])
    command = ["simulate", str(path), "--report-to", "tensorboard", "--out", str(out)]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, command)
    assert done.exit_code == 0, done.output
    found = scalars(out / "tracking" / "tensorboard")
    measured = {one.number: one.metrics[0].value for one in run.rounds}
    assert found["accuracy"] == pytest.approx(measured)
    with pytest.raises(hortus.HortusError, match="Did you mean 'tensorboard'"):
        hortus.simulate(plan, out=out, report_to=["tensorbord"])
