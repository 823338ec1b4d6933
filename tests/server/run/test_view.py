"""A run as its folder tells it, read beside the server that writes it and without changing it."""

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.made_runs import (
    SITES,
    make_consortium,
    make_contract,
    make_plan,
    make_round,
    make_store,
    release,
    spent,
    write_adapter_of,
)

from hortus.planning.plan_file import dump_plan
from hortus.privacy.ledger.decisions import EVERY_DATASET, Granted
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.runtime.errors import CohortTooSmall, HortusError, UsageError
from hortus.server.run.attendance import AttendanceBook, attended
from hortus.server.run.failure import read_failure, write_failure
from hortus.server.run.records import Departure
from hortus.server.run.view import State, epsilon_plot, read_view, signature


def test_a_simulated_run_shows_what_the_ledgers_say(tmp_path: Path) -> None:
    contract = make_contract(make_plan(rounds=3))
    store = make_store(tmp_path, contract, 2)
    consortium = make_consortium(tmp_path)
    release(consortium, "ash", contract, store.run, (0, 1))
    release(consortium, "birch", contract, store.run, (0,))
    release(consortium, "cedar", contract, "f" * 32, (0, 1))
    view = read_view(tmp_path)
    ash, birch, cedar, dogwood = view.sites
    assert view.simulated
    assert [site.name for site in view.sites] == list(SITES)
    assert ash.points == tuple(enumerate(spent(consortium, "ash"), start=1))
    assert (ash.spent, ash.charges) == (spent(consortium, "ash")[-1], 2)
    assert birch.points == ((1, spent(consortium, "birch")[0]),)
    assert cedar.points == (), "another run's rounds are not this run's"
    assert cedar.spent == spent(consortium, "cedar")[-1], "but they are spent"
    assert (dogwood.spent, dogwood.charges, dogwood.points) == (0.0, 0, ())
    assert ash.budget is not None
    assert ash.budget.epsilon == 7.25
    assert view.epsilon == max(site.spent or 0.0 for site in view.sites)
    assert not consortium.site("dogwood").ledger.exists(), "looking makes no ledger"
    plot = epsilon_plot(view)
    assert set(plot.curves) == {"ash", "birch"}
    assert plot.levels == {"budget 7.25": 7.25}


def test_a_grant_raises_the_budget_that_is_shown(tmp_path: Path) -> None:
    contract = make_contract(make_plan())
    store = make_store(tmp_path, contract, 1)
    consortium = make_consortium(tmp_path)
    release(consortium, "ash", contract, store.run, (0,))
    files = consortium.site("ash")
    identity = Identity.load(files.identity, "ash")
    with closing(Ledger.open(files.ledger, identity, lambda: 1.8e9)) as ledger:
        ledger.record(Granted(EVERY_DATASET, 2.5, "agreed on 3 May"))
    release(consortium, "ash", contract, store.run, (1,))
    ash = read_view(tmp_path).sites[0]
    assert ash.charges == 2, "a grant is no charge"
    assert ash.budget is not None
    assert ash.budget.epsilon == 9.75


def test_a_deployed_run_shows_the_servers_claim_for_the_rounds_that_a_site_was_in(
    tmp_path: Path,
) -> None:
    contract = make_contract(make_plan(rounds=3))
    store = make_store(tmp_path, contract, 1)
    store.commit(make_round(1, SITES[:-1]), {})
    store.note_departure(Departure(1, "dogwood", "its budget is spent"))
    store.note_departure(Departure(0, "elm", "not approved here"))
    view = read_view(tmp_path)
    assert not view.simulated
    claims = {site.name: (site.spent, site.took_part) for site in view.sites}
    assert claims["ash"] == (2.0, (True, True))
    assert claims["dogwood"] == (1.0, (True, False))
    assert claims["elm"] == (0.0, (False, False))
    assert all(site.budget is None and site.charges is None for site in view.sites)
    assert (view.sums, view.attempts) == (2, 4)


def test_without_noise_there_is_no_bound(tmp_path: Path) -> None:
    contract = make_contract(make_plan("unsafe_none"))
    store = make_store(tmp_path, contract, 2)
    assert read_view(tmp_path).epsilon is None
    assert all(site.spent is None for site in read_view(tmp_path).sites)
    consortium = make_consortium(tmp_path, bare=True)
    release(consortium, "ash", contract, store.run, (0,))
    view = read_view(tmp_path)
    assert (view.epsilon, view.sites[0].spent) == (None, None)
    assert math.isinf(view.sites[0].points[0][1])
    assert epsilon_plot(view).curves == {}


def test_its_state_is_that_of_the_folder(tmp_path: Path) -> None:
    contract = make_contract(make_plan(rounds=2))
    store = make_store(tmp_path, contract, 0)
    assert read_view(tmp_path).state is State.WAITING
    store.commit(make_round(0), {})
    view = read_view(tmp_path)
    assert view.state is State.RUNNING
    write_failure(tmp_path, CohortTooSmall("2 sites would take part", remedy="Wait."))
    view = read_view(tmp_path)
    assert (view.state, str(view.failure)) == (State.STOPPED, "2 sites would take part — Wait.")
    store.commit(make_round(1), {})
    write_adapter_of(tmp_path, 1)
    assert read_view(tmp_path).state is State.STOPPED, "the last round's is not written yet"
    write_adapter_of(tmp_path, 2)
    assert read_view(tmp_path).state is State.FINISHED


@pytest.mark.parametrize("kind", [HortusError, UsageError, CohortTooSmall])
def test_an_error_of_the_round_loop_keeps_its_exit_code(
    tmp_path: Path, kind: type[HortusError]
) -> None:
    """A service manager starts again what failed, and not what cannot be used."""
    write_failure(tmp_path, kind("no", where="there", remedy="that"))
    told = read_failure(tmp_path)
    assert told is not None
    assert (told.exit_code, str(told)) == (kind.exit_code, "there: no — that")


def test_every_change_that_a_view_shows_changes_the_signature(tmp_path: Path) -> None:
    contract = make_contract(make_plan(rounds=2))
    store = make_store(tmp_path, contract, 1)
    consortium = make_consortium(tmp_path)
    seen = [signature(tmp_path)]
    names = sorted(tmp_path.rglob("*"))
    read_view(tmp_path)
    assert signature(tmp_path) == seen[0], "looking is no change"
    assert sorted(tmp_path.rglob("*")) == names, "and leaves no file behind"
    for change in (
        lambda: store.commit(make_round(1), {}),
        lambda: store.note_departure(Departure(1, "ash", "gone")),
        lambda: release(consortium, "ash", contract, store.run, (0,)),
        lambda: release(consortium, "ash", contract, store.run, (1,)),
        lambda: write_failure(tmp_path, HortusError("no")),
        (tmp_path / "adapter").mkdir,
    ):
        change()
        seen.append(signature(tmp_path))
    assert len(set(seen)) == len(seen)


def test_a_server_that_is_at_work_shows_who_is_there_and_one_that_died_does_not(
    tmp_path: Path,
) -> None:
    contract = make_contract(make_plan(rounds=4))
    store = make_store(tmp_path, contract, 1)
    store.note_departure(Departure(1, "birch", "its connection was lost"))
    book = AttendanceBook(tmp_path, SITES, lambda: 1.8e9, dict(enumerate(SITES)))
    seen = []
    with attended(tmp_path):
        for change in (lambda: book.see([0, 1]), lambda: book.see([0]), lambda: book.sum(2, 3, 4)):
            change()
            seen.append(signature(tmp_path))
        view = read_view(tmp_path)
    ash, birch, cedar, _ = view.sites
    assert view.state is State.RUNNING
    assert view.progress == (1 + 2 / 4) / 4, "steps of the round under way count"
    assert (ash.standing, ash.is_missed) == ("connected", False)
    assert birch.standing.startswith("down, last heard 2027-01-15")
    assert (birch.is_missed, cedar.standing) == (True, "not connected yet")
    seen.append(signature(tmp_path))
    assert len(set(seen)) == len(seen), "a server's end is a change as well"
    view = read_view(tmp_path)
    assert (view.state, view.attendance, view.progress) == (State.SILENT, None, 1 / 4)
    assert [site.standing for site in view.sites] == ["", "away since round 2", "", ""]


def test_the_plans_own_epsilon_is_shown_where_its_file_is_there(tmp_path: Path) -> None:
    plan = make_plan(rounds=3)
    make_store(tmp_path, make_contract(plan), 1)
    assert read_view(tmp_path).planned is None
    (tmp_path / "plan.yaml").write_bytes(dump_plan(plan))
    view = read_view(tmp_path)
    assert view.planned == 50.0
    assert epsilon_plot(view).levels == {"plan 50": 50.0}


def test_rounds_still_in_the_write_ahead_log_are_seen(tmp_path: Path) -> None:
    contract = make_contract(make_plan(rounds=2))
    store = make_store(tmp_path, contract, 1)
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as held:
        held.execute("SELECT * FROM rounds").fetchall()
        store.commit(make_round(1), {})
        assert (tmp_path / "run.sqlite-wal").stat().st_size > 0
        assert len(read_view(tmp_path).rounds) == 2


def test_other_tools_read_rounds_from_one(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan(rounds=2)), 2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]


def test_a_folder_without_a_run_names_those_below_it(tmp_path: Path) -> None:
    make_store(tmp_path / "private", make_contract(make_plan()), 1)
    with pytest.raises(UsageError, match=r"Did you mean .*private\?"):
        read_view(tmp_path)
    with pytest.raises(UsageError, match="hortus server"):
        read_view(tmp_path / "nowhere")


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    (tmp_path / "run.sqlite").write_bytes(b"no database at all, however long it may be" * 50)
    with pytest.raises(HortusError, match=r"run\.sqlite"):
        read_view(tmp_path)
