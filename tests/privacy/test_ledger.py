"""What the ledger promises: charged before sent, once, within budget, durable and unchangeable."""

import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.privacy.accounting import GaussianEvent, epsilon
from hortus.privacy.ledger import (
    GENESIS,
    Charge,
    Ledger,
    dataset_fingerprint,
    entry_hash,
    is_entry_signed,
)
from hortus.protocol.errors import HortusError, Refused, UsageError
from hortus.protocol.identity import SiteIdentity

IDENTITY = SiteIdentity.generate("clinic-a")
DELTA = 1e-5
CHARGE = Charge(
    run="0" * 32,
    session="1" * 32,
    round=0,
    step=0,
    attempt=0,
    dataset="d" * 64,
    unit="record",
    mode="distributed",
    mechanism="discrete-gaussian",
    sampling_rate=1.0,
    noise_multiplier=4.0,
    clipping_norm=0.1,
    releases=1,
    delta=DELTA,
    plan="e" * 64,
)
EVENT = GaussianEvent(1.0, 4.0)


def _open(path: Path, identity: SiteIdentity = IDENTITY) -> Ledger:
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


def _charge(ledger: Ledger, budget: float = 100.0, **changes: object) -> None:
    ledger.charge(replace(CHARGE, **changes), budget, DELTA)  # type: ignore[arg-type]


def test_an_entry_is_chained_and_signed_and_says_what_was_spent(ledger: Ledger) -> None:
    first = ledger.charge(CHARGE, 100.0, DELTA)
    second = ledger.charge(replace(CHARGE, step=1, releases=3), 100.0, DELTA)
    assert (first.seq, second.seq) == (1, 2)
    assert (first.previous_hash, second.previous_hash) == (GENESIS, first.hash)
    assert first.epsilon_after == epsilon({EVENT: 1}, DELTA)
    assert second.epsilon_after == epsilon({EVENT: 4}, DELTA) == ledger.spent(CHARGE.dataset, DELTA)
    assert ledger.history(CHARGE.dataset) == {EVENT: 4}
    assert ledger.head() == (2, second.hash)
    assert list(ledger.entries()) == [first, second]
    assert all(is_entry_signed(entry, IDENTITY.public_key_bytes) for entry in (first, second))


def test_a_budget_holds_over_runs_plans_and_restarts(path: Path) -> None:
    budget = epsilon({EVENT: 3}, DELTA)
    for number in range(3):
        ledger = _open(path)
        _charge(ledger, budget, run=f"{number}" * 32, session=f"{number}" * 32, plan="f" * 64)
        ledger.close()
    ledger = _open(path)
    with pytest.raises(Refused) as caught:
        _charge(ledger, budget, step=1)
    text = str(caught.value)
    assert CHARGE.dataset[:16] in text
    assert f"has spent ε = {budget:.4g}" in text
    assert f"to ε = {epsilon({EVENT: 4}, DELTA):.4g}" in text
    assert f"budget of ε = {budget:.4g}" in text
    assert "policy.yaml" in text
    assert ledger.head()[0] == 3


def test_a_refused_charge_leaves_nothing_behind(ledger: Ledger) -> None:
    with pytest.raises(Refused):
        _charge(ledger, budget=0.01)
    assert ledger.head() == (0, GENESIS)
    _charge(ledger)  # the attempt was not used up


def test_another_dataset_has_its_own_budget(ledger: Ledger) -> None:
    budget = epsilon({EVENT: 1}, DELTA)
    _charge(ledger, budget)
    _charge(ledger, budget, step=1, dataset="c" * 64)
    assert ledger.spent("c" * 64, DELTA) == budget
    assert ledger.spent("unknown", DELTA) == 0.0


def test_losses_by_different_units_are_not_added_up(ledger: Ledger) -> None:
    _charge(ledger)
    with pytest.raises(Refused, match="protect a record.*protects a patient_id"):
        _charge(ledger, step=1, unit="patient_id")
    assert [entry.charge.unit for entry in ledger.entries()] == ["record"]
    _charge(ledger, step=1, unit="patient_id", dataset="c" * 64)


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


def test_uses_outlive_the_process(path: Path) -> None:
    ledger = _open(path)
    ledger.record_use("s", 3, 2)
    ledger.close()
    with pytest.raises(Refused):
        _open(path).record_use("s", 3, 2)


def test_a_release_without_privacy_needs_an_infinite_budget_and_ends_every_finite_one(
    ledger: Ledger,
) -> None:
    bare = {"mode": "unsafe_none", "mechanism": "none", "noise_multiplier": 0.0}
    with pytest.raises(Refused, match="ε = inf"):
        _charge(ledger, 1000.0, **bare)
    _charge(ledger, math.inf, **bare)
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
    with pytest.raises(ValueError, match=r"none|q|rounds|δ"):
        replace(CHARGE, **wrong)  # type: ignore[arg-type]


def test_the_charge_is_computed_at_the_budgets_delta(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="δ"):
        ledger.charge(CHARGE, 100.0, 1e-6)


def test_whole_numbers_hash_alike_before_and_after_the_database(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger, sampling_rate=1, noise_multiplier=4, clipping_norm=1)
    ledger.close()
    _open(path).close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET releases = 1",
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
        raw.execute("UPDATE entries SET noise_multiplier = 40 WHERE seq = 2")
    with pytest.raises(HortusError, match="number 2 does not fit") as caught:
        _open(path)
    assert str(path) in str(caught.value)


def test_another_sites_ledger_is_not_continued(path: Path) -> None:
    ledger = _open(path)
    _charge(ledger)
    ledger.close()
    with pytest.raises(HortusError, match="not signed by the key of clinic-b"):
        _open(path, SiteIdentity.generate("clinic-b"))


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
        _open(path).charge(replace(CHARGE, step=1), 100.0, DELTA)
    assert str(path) in str(caught.value)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HortusError, match="No such file"):
        _open(tmp_path / "nowhere" / "ledger.sqlite")


def test_a_full_disk_is_an_error_and_no_charge(ledger: Ledger) -> None:
    _charge(ledger)
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says "full"
    before = list(ledger.entries())
    with pytest.raises(HortusError, match="disk is full"):
        _charge(ledger, step=1, run="r" * 20_000)
    assert list(ledger.entries()) == before
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    _charge(ledger, step=1, run="r" * 20_000)


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
from dataclasses import replace
from pathlib import Path
from hortus.privacy.ledger import Charge, Ledger
from hortus.protocol.identity import SiteIdentity
path = Path(sys.argv[1])
ledger = Ledger.open(path, SiteIdentity.load(path.with_name("key.pem"), "clinic-a"), lambda: 1.0)
charge = Charge("r", "s", 0, 0, 0, "d", "record", "local", "m", 1.0, 50.0, 1.0, 1, 1e-5, "p")
for step in range(100_000):
    print(ledger.charge(replace(charge, step=step), 1e9, 1e-5).hash, flush=True)
"""


def test_what_was_charged_survives_kill_9(path: Path) -> None:
    identity = SiteIdentity.create("clinic-a", path.with_name("key.pem"))
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
    one = entry_hash(1, 0.0, CHARGE, 0.1, GENESIS)
    assert one != entry_hash(1, 0.0, CHARGE, math.nextafter(0.1, 1), GENESIS)
    assert one == entry_hash(1, 0, CHARGE, 0.1, GENESIS)
