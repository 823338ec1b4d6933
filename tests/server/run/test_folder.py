"""One folder, one run: of one plan, one model, the same files, and by one process at a time."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.made_runs import make_contract, make_plan, make_round

from hortus.planning.plan_file import dump_plan, load_plan
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.errors import HortusError, UsageError
from hortus.server.run.folder import claimed, open_run
from hortus.server.run.store import RunStore

SESSION = "1" * 32
Change = Callable[[Path, dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan with two sites and evaluation records, and a place for its run."""
    for name in ("ash.csv", "birch.csv", "test.csv"):
        (tmp_path / name).write_text(f"text,label\n{name},a\n")
    (tmp_path / "cedar").mkdir()
    (tmp_path / "cedar" / "state.json").write_text("{}")
    _write(tmp_path, {})
    return tmp_path


def _write(folder: Path, changes: dict[str, Any]) -> None:
    sites = {"ash": folder / "ash.csv", "birch": folder / "birch.csv", "cedar": folder / "cedar"}
    fields = {"evaluation": folder / "test.csv", "simulation": {"sites": sites}}
    (folder / "plan.yaml").write_bytes(dump_plan(make_plan(**(fields | changes))))


def _open(folder: Path, *, force: bool = False, digest: str = "c" * 64) -> RunStore:
    plan = load_plan(folder / "plan.yaml")
    contract = make_contract(plan).model_copy(update={"model_digest": digest})
    (folder / "run").mkdir(exist_ok=True)
    return open_run(
        plan, folder / "plan.yaml", contract, folder / "run", simulated=False, force=force
    )


def _begin(store: RunStore) -> None:
    """Tries a sum: sites may have paid for it."""
    store.note_session(SESSION, ("ash", "birch"))
    store.note_attempt(AttemptRecord(SESSION, 0, 0, ("ash", "birch"), (), complete=False))


def _append(name: str) -> Change:
    return lambda folder, _: (folder / name).write_text("text,label\nanother,b\n") and None


def _set(section: str, **fields: Any) -> Change:
    def change(_: Path, plan: dict[str, Any]) -> None:
        plan[section] = plan.get(section, {}) | fields

    return change


def _add_file(folder: Path, _: dict[str, Any]) -> None:
    (folder / "cedar" / "more.arrow").write_bytes(b"1")


CHANGES: dict[str, tuple[Change, str]] = {
    "records of one site": (
        _append("birch.csv"),
        r"simulation.sites.birch: .*birch\.csv has changed",
    ),
    "a dataset folder": (_add_file, r"simulation.sites.cedar: .*cedar has changed"),
    "evaluation records": (_append("test.csv"), r"evaluation: .*test\.csv has changed"),
    "a label": (_set("task", labels=["a", "c"]), r'task.labels: was \["a", "b"\], is \["a", "c"\]'),
    "rounds": (
        _set("training", rounds=5, sampling_rate=0.5, nominal_units=60),
        "training.rounds: was 2, is 5",
    ),
    "epsilon": (_set("privacy", epsilon=9.0, delta=1e-3), "privacy.epsilon: was 50.0, is 9.0"),
    "spare attempts": (
        _set("privacy", epsilon=50.0, delta=1e-3, spare_attempts=7),
        "privacy.spare_attempts: was not set, is 7",
    ),
    "the seed": (lambda _, plan: plan.update(seed=8), "seed: was 3, is 8"),
    "where the model is": (
        lambda _, plan: plan.update(model="other"),
        'model: was "model", is "other"',
    ),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES.keys())
def test_what_has_changed_since_a_run_began_is_named(
    folder: Path, change: Change, named: str
) -> None:
    _begin(_open(folder))
    fields: dict[str, Any] = {}
    change(folder, fields)
    _write(folder, fields)
    with pytest.raises(UsageError, match=named) as refusal:
        _open(folder)
    assert "--out" in str(refusal.value.remedy)
    assert "--force" in str(refusal.value.remedy)
    assert str(refusal.value).count("\n") == 1, "and nothing else is"


def test_another_model_in_the_same_place_is_named(folder: Path) -> None:
    _begin(_open(folder))
    with pytest.raises(UsageError, match="model: the files of model have changed"):
        _open(folder, digest="d" * 64)


def test_a_site_more_is_named(folder: Path) -> None:
    _begin(_open(folder))
    sites = dict.fromkeys(("ash", "birch", "cedar", "dogwood"), folder / "ash.csv")
    _write(folder, {"simulation": {"sites": sites}})
    with pytest.raises(UsageError, match=r"simulation.sites.dogwood: was not set") as refusal:
        _open(folder)
    assert "birch.csv" not in str(refusal.value)
    assert "simulation.sites.birch: " in str(refusal.value)


def test_files_that_have_moved_or_are_gone_are_no_change(folder: Path) -> None:
    """What a run needs of them it has taken over; the transport moves the same bits."""
    _begin(_open(folder))
    (folder / "elsewhere").mkdir()
    (folder / "ash.csv").rename(folder / "elsewhere" / "ash.csv")
    sites = {"ash": "elsewhere/ash.csv", "birch": "birch.csv", "cedar": "cedar"}
    simulation = {
        "sites": {s: folder / p for s, p in sites.items()},
        "engine": {"kind": "rehearsal", "transport": "grpc"},
    }
    (folder / "test.csv").unlink()
    _write(folder, {"simulation": simulation})
    _open(folder)


@pytest.mark.parametrize(("change", "_named"), CHANGES.values(), ids=CHANGES.keys())
def test_a_start_that_came_to_no_sum_is_in_nobodys_way(
    folder: Path, change: Change, _named: str
) -> None:
    first = _open(folder)
    first.note_session(SESSION, ("ash", "birch"))
    (folder / "run" / "records").mkdir()
    (folder / "run" / "records" / "ash.jsonl").touch()
    fields: dict[str, Any] = {}
    change(folder, fields)
    _write(folder, fields)
    second = _open(folder)
    assert second.run != first.run
    assert not (folder / "run" / "records").exists()


def test_to_start_over_removes_the_run_and_nothing_else(folder: Path) -> None:
    store = _open(folder)
    _begin(store)
    store.commit(make_round(0), {})
    (folder / "run" / "notes.txt").write_text("mine")
    _append("ash.csv")(folder, {})
    again = _open(folder, force=True)
    assert again.run != store.run
    assert again.next_round == 0
    assert not list((folder / "run" / "checkpoints").iterdir())
    assert (folder / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_plan_that_lies_in_the_runs_folder_is_left_as_it_is(folder: Path, force: bool) -> None:
    path = folder / "plan.yaml"
    path.write_text(f"# A comment.\n{path.read_text()}")
    plan = load_plan(path)
    for _ in range(2):
        open_run(plan, path, make_contract(plan), folder, simulated=False, force=force)
    assert path.read_text().startswith("# A comment.\n")


def test_a_run_of_another_contract_is_refused_whatever_the_plan_file_says(folder: Path) -> None:
    """The plan lies in the folder itself, so there is no older one to compare it with."""
    path = folder / "plan.yaml"

    def start(plan: Plan, contract: Contract) -> RunStore:
        return open_run(plan, path, contract, folder, simulated=False, force=False)

    plan = load_plan(path)
    _begin(start(plan, make_contract(plan)))
    _write(folder, {"seed": 4})
    changed = load_plan(path)
    with pytest.raises(UsageError, match="seed: was 3, is 4"):
        start(changed, make_contract(changed))


def test_a_second_start_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "run"),
        pytest.raises(HortusError, match="another process is working"),
        claimed(tmp_path / "run"),
    ):
        pass
    with claimed(tmp_path / "run"):
        pass


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path\n"
        "from hortus.runtime.errors import HortusError\n"
        "from hortus.runtime.locks import held\n"
        "with held(Path(sys.argv[1]), HortusError('taken')):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", holder, str(tmp_path / "attendance.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(HortusError, match="another process"), claimed(tmp_path):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with claimed(tmp_path):
            pass
