"""A simulation without --out: the same plan finds its run again, and another plan gets a new folder."""

from pathlib import Path
from typing import Any

import pytest
from helpers.made_runs import make_contract, make_plan

from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.protocol.plan import Plan
from hortus.runtime.errors import UsageError
from hortus.server.run.attendance import InUse
from hortus.server.run.folder import claimed, open_run
from hortus.server.run.names import named


def start(plan: Plan, runs: Path, *, begins: bool = True, simulated: bool = True) -> str:
    """Starts a plan's run; returns the name of its folder."""
    contract = make_contract(plan)
    with named(plan, contract, runs) as place:
        folder = place.directory
        store = open_run(
            plan, runs / "plan.yaml", contract, folder, simulated=simulated, force=False
        )
        if begins:
            begin(store, folder, simulated=simulated)
    return folder.name


def begin(store: Any, folder: Path, *, simulated: bool) -> None:
    if simulated:
        (folder / "consortium").mkdir(exist_ok=True)
    sites = ("ash", "birch")
    store.note_session("1" * 32, sites)
    store.note_attempt(AttemptRecord("1" * 32, 0, 0, sites, (), complete=False))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_each_plan_has_a_folder_of_its_own_and_finds_it_again(runs: Path) -> None:
    plans = [make_plan(), make_plan(seed=4), make_plan(rounds=5)]
    names = ["tiny", "tiny-2", "tiny-3"]
    assert [start(plan, runs) for plan in plans] == names
    for plan, name in zip(plans, names, strict=True):
        with named(plan, make_contract(plan), runs) as place:
            assert (place.directory.name, place.other) == (name, None)


def test_what_the_last_run_differs_in_is_told(runs: Path) -> None:
    start(make_plan(), runs)
    start(make_plan(seed=4), runs)
    plan = make_plan(seed=5)
    with named(plan, make_contract(plan), runs) as place:
        assert place.other == runs / "tiny-2"
        assert place.differences == ("seed: was 4, is 5",)


def test_a_start_that_came_to_nothing_gives_its_folder_to_the_next(runs: Path) -> None:
    assert start(make_plan(), runs, begins=False) == "tiny"
    assert start(make_plan(seed=4), runs) == "tiny"
    assert start(make_plan(), runs) == "tiny-2"


def test_a_folder_that_was_removed_is_free_again(runs: Path) -> None:
    for seed in (1, 2, 3):
        start(make_plan(seed=seed), runs)
    (runs / "tiny-2").rename(runs / "kept")
    assert start(make_plan(seed=3), runs, begins=False) == "tiny-3"
    assert start(make_plan(seed=4), runs) == "tiny-2"


def test_plans_that_start_side_by_side_get_folders_of_their_own(runs: Path) -> None:
    one, other = make_plan(seed=1), make_plan(seed=2)
    with (
        named(one, make_contract(one), runs) as first,
        named(other, make_contract(other), runs) as second,
    ):
        assert [first.directory.name, second.directory.name] == ["tiny", "tiny-2"]


def test_the_same_run_twice_at_a_time_is_refused(runs: Path) -> None:
    plan = make_plan()
    start(plan, runs)
    with claimed(runs / "tiny"), pytest.raises(InUse), named(plan, make_contract(plan), runs):
        pass


def test_names_that_look_alike_are_told_apart(runs: Path) -> None:
    assert start(make_plan(name="tiny-2"), runs) == "tiny-2"
    assert start(make_plan(), runs) == "tiny"
    assert start(make_plan(seed=4), runs) == "tiny-3"
    for other in ("tiny-baselines", "tiny-attack", "tiny-3-baselines", "tiny-²"):
        (runs / other).mkdir()
    assert start(make_plan(seed=5), runs) == "tiny-4"


def test_a_run_that_cannot_be_read_is_left_alone(runs: Path) -> None:
    start(make_plan(), runs)
    (runs / "tiny" / "contract.json").write_text("{}")
    (runs / "tiny" / "run.sqlite").write_bytes(b"no database")
    assert start(make_plan(), runs) == "tiny-2"


def test_a_rehearsal_is_not_taken_for_the_run_of_real_sites(runs: Path) -> None:
    plan = make_plan()
    start(plan, runs)
    with pytest.raises(UsageError, match="it is a simulation"):
        open_run(
            plan,
            runs / "plan.yaml",
            make_contract(plan),
            runs / "tiny",
            simulated=False,
            force=False,
        )


def test_nor_the_run_of_real_sites_for_a_simulation(runs: Path) -> None:
    plan, folder = make_plan(), runs / "tiny"
    folder.mkdir(parents=True)
    contract = make_contract(plan)
    store = open_run(plan, runs / "plan.yaml", contract, folder, simulated=False, force=False)
    begin(store, folder, simulated=False)
    assert start(plan, runs) == "tiny-2"
