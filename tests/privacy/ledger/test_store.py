"""What the ledger promises: charged before sent, once, within budget, durable and unchangeable."""

import gc
import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from helpers.charges import make_approval, make_charge, make_content
from hypothesis import given
from hypothesis import strategies as st

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.charges import Charged, Level, Scope
from hortus.privacy.ledger.decisions import (
    EVERY_DATASET,
    Admitted,
    Declined,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import GENESIS, Entry
from hortus.privacy.ledger.marks import dataset_fingerprint
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget, Every, PeriodBudget
from hortus.runtime.errors import HortusError, Refused, UsageError

IDENTITY = Identity.generate("clinic-a")
DELTA = 1e-5
CHARGE = make_charge()
EVENT = GaussianEvent(1.0, 4.0)


def _open(path: Path, identity: Identity = IDENTITY) -> Ledger:
    ticks = count(1_800_000_000)
    return Ledger.open(path, identity, lambda: float(next(ticks)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = _open(path)
    yield ledger
    ledger.close()


def _budget(epsilon: float = 100.0, **more: object) -> Budget:
    return Budget(epsilon=epsilon, delta=DELTA, **more)  # type: ignore[arg-type]


def _charge(ledger: Ledger, budget: float | Budget | None = 100.0, **changes: object) -> Entry:
    allowed = _budget(budget) if isinstance(budget, float) else budget
    return ledger.charge(replace(CHARGE, **changes), allowed)  # type: ignore[arg-type]


def test_an_entry_is_chained_and_signed_and_says_what_was_spent(ledger: Ledger) -> None:
    first = _charge(ledger)
    second = _charge(ledger, step=1, releases=3)
    assert (first.seq, second.seq) == (1, 2)
    assert (first.previous_hash, second.previous_hash) == (GENESIS, first.hash)
    after = epsilon({EVENT: 4}, DELTA)
    assert second.body == Charged(
        replace(CHARGE, step=1, releases=3),
        CHARGE.dataset,
        (),
        (Level(Scope.LIFETIME, "", after, 100.0),),
    )
    assert ledger.spent(CHARGE.dataset, DELTA) == after
    assert ledger.history(CHARGE.dataset) == {EVENT: 4}
    assert ledger.head() == (2, second.hash)
    assert list(ledger.entries()) == [first, second]
    assert all(entry.is_signed_by(IDENTITY.public_key_bytes) for entry in (first, second))


def test_a_budget_holds_over_runs_plans_and_restarts(path: Path) -> None:
    budget = epsilon({EVENT: 3}, DELTA)
    for number in range(3):
        ledger = _open(path)
        _charge(ledger, budget, run=f"{number}" * 32, session=f"{number}" * 32, plan="f" * 64)
        ledger.close()
    ledger = _open(path)
    with pytest.raises(Refused) as caught:
        _charge(ledger, budget, run="3" * 32, session="3" * 32)
    text = str(caught.value)
    assert f"has spent ε = {budget:.4g}" in text
    assert f"lifetime to ε = {epsilon({EVENT: 4}, DELTA):.4g}" in text
    assert f"budget of ε = {budget:.4g}" in text
    assert "policy.yaml" in text
    assert ledger.head()[0] == 3


def test_no_refusal_holds_a_fingerprint_or_a_path(ledger: Ledger, path: Path) -> None:
    """The server is told refusals: two with different fingerprints would say that records changed."""
    _charge(ledger, 1000.0)

    def refusals() -> Iterator[str]:
        for changes in ({}, {"step": 1, "unit": "patient_id"}, {"step": 1}):
            with pytest.raises(Refused) as caught:
                _charge(ledger, 1e-3, **changes)
            yield str(caught.value)
        ledger.record(Frozen(CHARGE.dataset, "an incident"))
        with pytest.raises(Refused) as caught:
            _charge(ledger, 1e-3, step=1)
        yield str(caught.value)

    told = list(refusals())
    for words, one in zip(("used before", "protect a", "has spent", "frozen"), told, strict=True):
        assert words in one
        assert CHARGE.dataset[:4] not in one
        assert str(path) not in one


def test_a_refused_charge_leaves_nothing_behind(ledger: Ledger) -> None:
    with pytest.raises(Refused):
        _charge(ledger, budget=0.01)
    assert ledger.head() == (0, GENESIS)
    _charge(ledger)  # the attempt was not used up


def test_another_content_has_no_budget_of_its_own(ledger: Ledger) -> None:
    budget = epsilon({EVENT: 1}, DELTA)
    assert ledger.spent(CHARGE.dataset, DELTA) == 0.0
    _charge(ledger, budget)
    assert ledger.spent("c" * 64, DELTA) == budget
    with pytest.raises(Refused, match="over its budget"):
        _charge(ledger, budget, step=1, dataset="c" * 64)


def test_an_attempt_is_charged_and_used_once(ledger: Ledger) -> None:
    _charge(ledger)
    ledger.record_use(CHARGE.session, 0, 1)
    for attempt in (0, 1):
        with pytest.raises(Refused, match=f"attempt {attempt} was used before"):
            _charge(ledger, attempt=attempt)
        with pytest.raises(Refused, match=f"attempt {attempt} was used before"):
            ledger.record_use(CHARGE.session, 0, attempt)
    _charge(ledger, session="2" * 32)
    assert ledger.head()[0] == 2


def test_a_withdrawn_plan_is_not_charged_though_its_step_was_begun_before(ledger: Ledger) -> None:
    ledger.record(make_approval())
    held = ledger.reserve(CHARGE, _budget())
    ledger.record(Withdrawn(CHARGE.plan, "study", "Ada", "a doubt"))
    for release in (
        lambda: ledger.commit(held),
        lambda: ledger.reserve(replace(CHARGE, step=1), _budget()),
        lambda: ledger.admit(Admitted(CHARGE.plan, "study", "record", 1.0, DELTA)),
    ):
        with pytest.raises(Refused, match="has withdrawn from the plan"):
            release()
    _charge(ledger, plan="f" * 64, run="f" * 32, session="f" * 32)  # another plan goes on
    ledger.record(make_approval())
    _charge(ledger, step=2)
    bodies = [entry.body for entry in ledger.consents().values()]
    assert bodies == [make_approval()]


def test_a_plan_is_admitted_once_and_not_over_an_approval(ledger: Ledger) -> None:
    admitted = Admitted(CHARGE.plan, "study", "record", 1.0, DELTA)
    for _ in range(3):
        ledger.admit(admitted)
    ledger.record(make_approval())
    ledger.admit(admitted)
    assert [entry.body for entry in ledger.entries()] == [admitted, make_approval()]


PEOPLE = {
    "nobody": (),
    "strangers": ("Zoe",),
    "of the first": ("Ada", "Zoe"),
    "of the second": ("Bob",),
    "of both": ("Ada", "Bob"),
    "the first itself": ("Ada", "Eve"),
}


@pytest.mark.parametrize("who", PEOPLE)
def test_what_is_foreseen_of_records_is_where_they_are_charged_and_leaves_no_trace(
    ledger: Ledger, path: Path, who: str
) -> None:
    """Two accounts; a file that was never seen is nobody's before it is used."""
    ledger.follow(make_content("a" * 64, "Ada", "Eve"))
    _charge(ledger, dataset="a" * 64)
    ledger.state_disjoint(make_content("b" * 64, "Bob"), ["a" * 64], "Ada", "another ward")
    _charge(ledger, dataset="b" * 64, step=1)
    content = make_content("c" * 64, *PEOPLE[who])
    before = path.read_bytes()
    foreseen = ledger.foresee(content)
    assert path.read_bytes() == before
    assert not ledger.is_following(content.dataset, content.unit)
    spent = ledger.standing(foreseen).account
    ledger.follow(content)
    assert ledger.foresee(content) == foreseen
    assert ledger.account(content.dataset) == spent
    assert ledger.account_of(content.dataset) == foreseen.account


def test_uses_outlive_the_process(path: Path) -> None:
    ledger = _open(path)
    ledger.record_use("s", 3, 2)
    ledger.close()
    with pytest.raises(Refused):
        _open(path).record_use("s", 3, 2)


def test_a_release_without_privacy_needs_no_budget_at_all_and_ends_every_finite_one(
    ledger: Ledger,
) -> None:
    bare = {"mode": "unsafe_none", "mechanism": "none", "noise_multiplier": 0.0}
    with pytest.raises(Refused, match="ε = inf"):
        _charge(ledger, 1000.0, **bare)
    _charge(ledger, None, **bare)
    assert ledger.spent(CHARGE.dataset, DELTA) == math.inf
    assert ledger.history(CHARGE.dataset) == {}
    with pytest.raises(Refused, match="has spent ε = inf"):
        _charge(ledger, 1000.0, step=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "none"},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"clipping_norm": math.nan},
        {"releases": 0},
        {"step": -1},
        {"delta": 0.0},
    ],
)
def test_an_impossible_charge_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        replace(CHARGE, **wrong)  # type: ignore[arg-type]


def test_the_charge_is_computed_at_the_budgets_delta(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="δ"):
        ledger.charge(CHARGE, Budget(epsilon=100.0, delta=1e-6))


def test_whole_numbers_hash_alike_before_and_after_the_database(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger, sampling_rate=1, noise_multiplier=4, clipping_norm=1)
    ledger.close()
    _open(path).close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET content = ''",
        "DELETE FROM entries",
        "UPDATE uses SET attempt = 9",
        "DELETE FROM uses",
    ],
)
def test_the_database_itself_refuses_changes(path: Path, statement: str) -> None:
    ledger = _open(path)
    _charge(ledger)
    ledger.close()
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        sqlite3.connect(path).execute(statement)


def test_the_files_are_private(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger)
    names = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert "ledger.sqlite-wal" in names
    assert set(names.values()) == {0o600}


def test_an_altered_entry_is_noticed_on_opening(path: Path) -> None:
    ledger = _open(path)
    for step in range(3):
        _charge(ledger, step=step)
    ledger.close()
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TRIGGER entries_stay")
        raw.execute("UPDATE entries SET content = replace(content, '\"step\":1', '\"step\":7')")
    with pytest.raises(HortusError, match="number 2 does not fit") as caught:
        _open(path)
    assert str(path) in str(caught.value)


def test_another_sites_ledger_is_not_continued(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger)
    ledger.close()
    with pytest.raises(HortusError, match="not signed by the key of clinic-b"):
        _open(path, Identity.generate("clinic-b"))


@pytest.mark.parametrize(
    "content", [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 4000]
)
def test_a_file_that_is_no_ledger_is_named(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(HortusError) as caught:
        _open(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_is_named(path: Path) -> None:
    ledger = _open(path)
    for step in range(40):
        ledger.record_use("s", step, 0)
    _charge(ledger)
    ledger.close()
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(HortusError) as caught:
        _charge(_open(path), step=1)
    assert str(path) in str(caught.value)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HortusError, match="No such file"):
        _open(tmp_path / "nowhere" / "ledger.sqlite")


def test_a_full_disk_is_an_error_and_no_charge(ledger: Ledger) -> None:
    _charge(ledger)
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says "full"
    before = list(ledger.entries())

    def charge_on() -> None:
        for step in range(1, 100):
            _charge(ledger, step=step)
            before.append(list(ledger.entries())[-1])

    with pytest.raises(HortusError, match="disk is full"):
        charge_on()
    assert list(ledger.entries()) == before
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    _charge(ledger, step=100)


def test_two_agents_cannot_spend_the_same_budget(path: Path) -> None:
    budget = epsilon({EVENT: 8}, DELTA)
    outcomes: list[bool] = []

    def spend(session: str) -> None:
        ledger = _open(path)
        for step in range(8):
            try:
                _charge(ledger, budget, session=session, step=step)
                outcomes.append(True)
            except Refused:
                outcomes.append(False)
        ledger.close()

    _open(path).close()
    threads = [threading.Thread(target=spend, args=(name * 32,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 8 + [True] * 8
    reopened = _open(path)
    assert reopened.spent(CHARGE.dataset, DELTA) <= budget
    assert [entry.seq for entry in reopened.entries()] == list(range(1, 9))


_SPENDER = """
import sys
from dataclasses import asdict, replace
from pathlib import Path
from hortus.privacy.ledger.charges import Charge
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget, Every, PeriodBudget
path = Path(sys.argv[1])
ledger = Ledger.open(path, Identity.load(path.with_name("key.pem"), "clinic-a"), lambda: 1.0)
charge = Charge(
    "a" * 32, "b" * 32, 0, 0, 0, "d" * 64, "record", "local", "discrete-gaussian",
    1.0, 50.0, 1.0, 1, 1e-5, "e" * 64,
)
for step in range(100_000):
    entry = ledger.commit(ledger.reserve(replace(charge, step=step), Budget(epsilon=1e9, delta=1e-5)))
    print(entry.hash, flush=True)
"""


def test_what_was_charged_survives_kill_9(path: Path) -> None:
    identity = Identity.create("clinic-a", path.with_name("key.pem"))
    with subprocess.Popen(
        [sys.executable, "-c", _SPENDER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        announced = [process.stdout.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        announced += process.stdout.read().split()
    written = [entry.hash for entry in _open(path, identity).entries()]
    # At most one charge was on disk and not announced yet.
    assert written[: len(announced)] == announced
    assert len(written) <= len(announced) + 1


@given(records=st.lists(st.binary(max_size=20), max_size=8), seed=st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_order(records: list[bytes], seed: object) -> None:
    shuffled = records.copy()
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert dataset_fingerprint(b"k" * 32, records) == dataset_fingerprint(b"k" * 32, shuffled)


def test_a_fingerprint_depends_on_records_their_number_and_the_key() -> None:
    known = {
        dataset_fingerprint(b"k", [b"ab", b"c"]),
        dataset_fingerprint(b"k", [b"a", b"bc"]),
        dataset_fingerprint(b"k", [b"ab", b"c", b"c"]),
        dataset_fingerprint(b"k", []),
        dataset_fingerprint(b"l", [b"ab", b"c"]),
    }
    assert len(known) == 5


def test_the_hash_covers_floats_exactly() -> None:
    def hash_of(time: float) -> str:
        return Entry.make(1, time, Granted("d" * 64, 1.0, "why"), GENESIS, IDENTITY).hash

    assert hash_of(0.1) != hash_of(math.nextafter(0.1, 1))
    assert hash_of(0) == hash_of(0.0)


# Reservations.


def test_what_is_reserved_cannot_be_spent_by_another(path: Path) -> None:
    budget = _budget(epsilon({EVENT: 2}, DELTA))
    first, second = _open(path), _open(path)
    held = first.reserve(CHARGE, budget)
    _charge(second, budget, step=1)
    with pytest.raises(Refused, match="with those that are being computed"):
        second.reserve(replace(CHARGE, step=2), budget)
    with pytest.raises(Refused):
        _charge(second, budget, step=2)
    entry = first.commit(held)
    assert isinstance(entry.body, Charged)
    assert entry.body.epsilon_after == budget.epsilon
    assert second.held() == []


def test_a_cancelled_reservation_costs_nothing(ledger: Ledger) -> None:
    budget = _budget(epsilon({EVENT: 1}, DELTA))
    ledger.cancel(ledger.reserve(CHARGE, budget))
    _charge(ledger, budget)
    assert ledger.head()[0] == 1


def test_a_reservation_alone_is_no_charge_and_lapses_with_its_process(path: Path) -> None:
    budget = _budget(epsilon({EVENT: 1}, DELTA))
    child = os.fork()
    if child == 0:
        _open(path).reserve(CHARGE, budget)
        os._exit(0)
    os.waitpid(child, 0)
    ledger = _open(path)
    assert ledger.head() == (0, GENESIS)
    _charge(ledger, budget)


def test_a_reservation_lapses_after_an_hour_and_its_commit_asks_again(path: Path) -> None:
    now = [1_800_000_000.0]
    budget = _budget(epsilon({EVENT: 1}, DELTA))
    slow = Ledger.open(path, IDENTITY, lambda: now[0])
    held = slow.reserve(CHARGE, budget)
    now[0] += 3601
    _charge(slow, budget, step=1)
    with pytest.raises(Refused, match="over its budget"):
        slow.commit(held)
    assert slow.head()[0] == 1


def test_a_step_that_takes_a_week_is_not_charged_any_more(path: Path) -> None:
    now = [1_800_000_000.0]
    ledger = Ledger.open(path, IDENTITY, lambda: now[0])
    held = ledger.reserve(CHARGE, _budget())
    now[0] += 8 * 86_400
    with pytest.raises(Refused, match="too long ago"):
        ledger.commit(held)
    assert ledger.head() == (0, GENESIS)


def test_a_reservation_made_before_the_clock_was_set_back_lapses(path: Path) -> None:
    now = [1_800_000_000.0]
    ledger = Ledger.open(path, IDENTITY, lambda: now[0])
    ledger.reserve(CHARGE, _budget())
    now[0] -= 86_400
    assert ledger.held() == []


_PAIR = """
import sys
from pathlib import Path
from hortus.privacy.ledger.charges import Charge
from hortus.privacy.ledger.store import Ledger
from hortus.runtime.errors import Refused
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget
path, name, budget = Path(sys.argv[1]), sys.argv[2], Budget(epsilon=float(sys.argv[3]), delta=1e-5)
ledger = Ledger.open(path, Identity.load(path.with_name("key.pem"), "clinic-a"), lambda: 1.8e9)
print("ready", flush=True)
sys.stdin.readline()
made = 0
for step in range(12):
    charge = Charge(
        "a" * 32, name, 0, step, 0, "d" * 64, "record", "local", "discrete-gaussian",
        1.0, 4.0, 1.0, 1, 1e-5, "e" * 64,
    )
    try:
        ledger.commit(ledger.reserve(charge, budget))
        made += 1
    except Refused:
        pass
print(made, flush=True)
"""


def test_two_processes_cannot_overspend(path: Path) -> None:
    identity = Identity.create("clinic-a", path.with_name("key.pem"))
    budget = epsilon({EVENT: 12}, DELTA)
    _open(path, identity).close()
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", _PAIR, str(path), name, repr(budget)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a" * 32, "b" * 32)
    ]
    for process in pair:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    made = [int(process.communicate("\n")[0]) for process in pair]
    ledger = _open(path, identity)
    # A hold that the other process drops a moment later may refuse one of the last charges.
    assert 11 <= sum(made) <= 12
    assert ledger.head()[0] == sum(made)
    assert ledger.spent("d" * 64, DELTA) <= budget


# Scopes, grants and freezes.


def test_a_plans_budget_holds_beside_the_lifetimes(ledger: Ledger) -> None:
    budget = _budget(epsilon({EVENT: 3}, DELTA), per_plan=epsilon({EVENT: 1}, DELTA))
    _charge(ledger, budget)
    with pytest.raises(Refused, match="would bring its plan to"):
        _charge(ledger, budget, step=1)
    entry = _charge(ledger, budget, run="2" * 32, session="2" * 32, plan="f" * 64)
    assert isinstance(entry.body, Charged)
    levels = {level.scope: level.epsilon for level in entry.body.levels}
    assert levels == {
        Scope.LIFETIME: epsilon({EVENT: 2}, DELTA),
        Scope.PLAN: epsilon({EVENT: 1}, DELTA),
    }


YEAR_END = 1_798_761_600.0  # 2027-01-01 00:00 UTC


@pytest.mark.parametrize(
    ("every", "before", "after"),
    [
        (Every.YEAR, "2026", "2027"),
        (Every.QUARTER, "2026-Q4", "2027-Q1"),
        (Every.MONTH, "2026-12", "2027-01"),
    ],
)
def test_a_periods_budget_starts_anew_with_the_period(
    path: Path, every: Every, before: str, after: str
) -> None:
    now = [YEAR_END - 1]
    ledger = Ledger.open(path, IDENTITY, lambda: now[0])
    one = epsilon({EVENT: 1}, DELTA)
    budget = _budget(per_period=PeriodBudget(epsilon=one, every=every))
    first = _charge(ledger, budget)
    with pytest.raises(Refused, match=f"would bring {before} to"):
        _charge(ledger, budget, step=1)
    now[0] += 1
    second = _charge(ledger, budget, step=1)
    for entry, label in ((first, before), (second, after)):
        assert isinstance(entry.body, Charged)
        assert entry.body.levels[1] == Level(Scope.PERIOD, label, one, one)


def test_a_clock_set_back_opens_no_period_again(path: Path) -> None:
    """Neither one that has passed, nor, after a jump ahead, a second new one."""
    now = [YEAR_END]
    ledger = Ledger.open(path, IDENTITY, lambda: now[0])
    budget = _budget(per_period=PeriodBudget(epsilon=epsilon({EVENT: 1}, DELTA)))
    _charge(ledger, budget)
    for year in (-40, -1, 0):
        now[0] = YEAR_END + year * 366 * 86_400
        with pytest.raises(Refused, match="would bring 2027 to"):
            _charge(ledger, budget, step=1)
    ledger.close()
    reopened = Ledger.open(path, IDENTITY, lambda: YEAR_END - 1e9)
    with pytest.raises(Refused, match="would bring 2027 to"):
        _charge(reopened, budget, step=1)


def test_a_grant_raises_the_lifetime_of_its_dataset_alone(ledger: Ledger) -> None:
    budget = _budget(epsilon({EVENT: 1}, DELTA))
    more = epsilon({EVENT: 2}, DELTA) - budget.epsilon
    ledger.follow(make_content(CHARGE.dataset, "Dora"))
    _charge(ledger, budget)
    ledger.state_disjoint(make_content("c" * 64, "Carol"), [CHARGE.dataset], "Ada", "a ward apart")
    ledger.record(Granted("c" * 64, more, "the other one"))
    with pytest.raises(Refused):
        _charge(ledger, budget, step=1)
    ledger.record(Granted(CHARGE.dataset, more + 1e-9, "ethics board 2026/17"))
    entry = _charge(ledger, budget, step=1)
    assert isinstance(entry.body, Charged)
    assert entry.body.levels[0].limit == pytest.approx(budget.epsilon + more)
    assert entry.seq == 5
    assert ledger.granted("c" * 64) == more


def test_a_grant_to_every_dataset_reaches_each(ledger: Ledger) -> None:
    ledger.record(Granted(EVERY_DATASET, 2.0, "new law"))
    assert ledger.granted("c" * 64) == ledger.granted("d" * 64) == 2.0


REFUSAL = Declined("e" * 64, "0" * 32, 3, CHARGE.dataset, "its budget is spent")


def test_a_refusal_is_a_signed_entry_and_costs_nothing(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger)
    spent = ledger.spent(CHARGE.dataset, DELTA)
    ledger.decline(REFUSAL)
    ledger.close()
    ledger = _open(path)
    assert [entry.body for entry in ledger.entries()][1:] == [REFUSAL]
    assert ledger.spent(CHARGE.dataset, DELTA) == spent
    assert _charge(ledger, step=1).seq == 3


def test_a_server_that_asks_again_and_again_does_not_fill_the_ledger(path: Path) -> None:
    ledger = _open(path)
    for _ in range(3):
        ledger.decline(REFUSAL)
    assert ledger.head()[0] == 1
    for number in range(100):
        ledger.decline(replace(REFUSAL, plan=f"{number:064x}"))
    assert ledger.head()[0] == 20
    ledger.close()
    ledger = _open(path)  # the count goes on over a restart, and a charge makes room again
    ledger.decline(replace(REFUSAL, plan="f" * 64))
    assert ledger.head()[0] == 20
    _charge(ledger)
    ledger.decline(REFUSAL)
    assert ledger.head()[0] == 22


@pytest.mark.parametrize("dataset", [CHARGE.dataset, EVERY_DATASET])
def test_a_frozen_dataset_releases_nothing_until_it_is_unfrozen(path: Path, dataset: str) -> None:
    agent, operator = _open(path), _open(path)
    held = agent.reserve(CHARGE, _budget())
    operator.record(Frozen(dataset, "an incident"))
    for attempt in (lambda: agent.commit(held), lambda: _charge(agent, step=1)):
        with pytest.raises(Refused, match="has frozen the dataset"):
            attempt()
    assert agent.frozen(CHARGE.dataset) == "an incident"
    operator.record(Unfrozen(dataset, "resolved"))
    _charge(agent, step=1)
    assert agent.head()[0] == 3


@pytest.mark.parametrize("body", [(0.0, "why"), (math.inf, "why"), (1.0, " "), (1.0, "x" * 501)])
def test_a_grant_has_an_amount_and_a_reason(body: tuple[float, str]) -> None:
    with pytest.raises(ValueError, match=r"grant|reason"):
        Granted("d" * 64, *body)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "a" * 32},
        {"plan": "f" * 64},
        {"session": "a" * 32, "plan": "f" * 64},
        {"session": "a" * 32, "run": "a" * 32, "plan": "f" * 64, "step": 0},
    ],
)
def test_a_session_is_of_one_run_and_a_run_of_one_plan(
    path: Path, changes: dict[str, object]
) -> None:
    """Else whoever audits the ledger could not tell a charge that was moved from one that was not."""
    _charge(_open(path))
    ledger = _open(path)
    if "step" in changes:
        _charge(ledger, **changes)
        return
    with pytest.raises(Refused, match="belonged to another plan before"):
        _charge(ledger, step=1, **changes)


def test_a_step_that_is_only_asked_about_is_of_no_session_and_no_run(ledger: Ledger) -> None:
    """A server that names its session like what stands for none would turn the site away for good."""
    nobody = "0" * 32
    _charge(ledger, session=nobody, run="1" * 32)
    asked = replace(CHARGE, session=nobody, run=nobody, step=1)
    assert ledger.shortfall(asked, _budget()) is None
    with pytest.raises(Refused, match="belonged to another plan before"):
        ledger.charge(asked, None)


def test_losses_by_different_units_are_not_added_up(ledger: Ledger) -> None:
    ledger.follow(make_content(CHARGE.dataset, "Dora"))
    _charge(ledger)
    for dataset in (CHARGE.dataset, "c" * 64):
        with pytest.raises(Refused, match="protect a record.*protects a patient_id"):
            _charge(ledger, step=1, unit="patient_id", dataset=dataset)
    others = make_content("c" * 64, "Carol", unit="patient_id")
    ledger.state_disjoint(others, [CHARGE.dataset], "Ada", "a ward apart")
    _charge(ledger, step=1, unit="patient_id", dataset="c" * 64)
    assert ledger.head()[0] == 3


def test_an_open_ledger_notices_that_its_file_was_exchanged(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger)
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TRIGGER entries_remain")
        raw.execute("DELETE FROM entries")
    with pytest.raises(HortusError, match="entry 1 has disappeared"):
        _charge(ledger, step=1)


@pytest.mark.parametrize("version", [2, 9])
def test_a_ledger_of_another_program_is_left_alone(path: Path, version: int) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(HortusError, match=f"format {version}, this program reads 3"):
        _open(path)


def test_a_long_ledger_is_not_in_memory_as_a_whole_when_it_is_opened(path: Path) -> None:
    """It grows with every step, and a site opens it again whenever it is started."""
    _open(path).close()
    rows, previous = [], GENESIS
    for number in range(1, 601):
        body = Granted(EVERY_DATASET, 1.0, f"{number}: " + "because " * 60)
        entry = Entry.make(number, 1.8e9 + number, body, previous, IDENTITY)
        rows.append((entry.seq, entry.content, entry.hash, entry.signature))
        previous = entry.hash
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
    size = sum(len(content) for _, content, _, _ in rows)
    del rows
    gc.collect()
    tracemalloc.start()
    try:
        with closing(_open(path)) as ledger:
            peak = tracemalloc.get_traced_memory()[1]
            assert ledger.head() == (600, previous)
    finally:
        tracemalloc.stop()
    assert peak < size / 2
