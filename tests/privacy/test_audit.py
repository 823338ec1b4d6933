"""An audit names the first entry that does not fit, whoever altered the ledger and however."""

import math
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import pytest

from hortus.privacy.accounting import GaussianEvent, epsilon
from hortus.privacy.audit import Audit, Severity, audit_ledger
from hortus.privacy.ledger import (
    GENESIS,
    SIGNATURE_CONTEXT,
    Charge,
    Entry,
    Ledger,
    entry_from_row,
    entry_hash,
)
from hortus.protocol.errors import HortusError, UsageError
from hortus.protocol.identity import SiteIdentity

SITE = SiteIdentity.generate("clinic-a")
STRANGER = SiteIdentity.generate("stranger")
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
    sampling_rate=0.1,
    noise_multiplier=2.0,
    clipping_norm=0.1,
    releases=4,
    delta=DELTA,
    plan="e" * 64,
)
ENTRIES = 6


def _write(path: Path, charges: list[Charge]) -> None:
    ticks = count(1_800_000_000)
    ledger = Ledger.open(path, SITE, lambda: float(next(ticks)))
    for charge in charges:
        ledger.charge(charge, math.inf, charge.delta)
    ledger.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    _write(path, [replace(CHARGE, step=n, round=n // 2) for n in range(ENTRIES)])
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "ledger.sqlite"))


def _audit(path: Path) -> Audit:
    return audit_ledger(path, SITE.public_key_bytes, SITE.site)


def _first(path: Path) -> tuple[int, str]:
    finding = _audit(path).first_broken
    assert finding is not None
    return finding.entry, finding.problem


def _tamper(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as raw:
        for (trigger,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            raw.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            raw.execute(statement)


def _rewrite(path: Path, change: Callable[[Entry], Entry], signer: SiteIdentity = SITE) -> None:
    """Rewrites the whole chain consistently, as somebody with a key could."""
    _tamper(path)
    with sqlite3.connect(path) as raw:
        rows = raw.execute("SELECT * FROM entries ORDER BY seq").fetchall()
        raw.execute("DELETE FROM entries")
        previous = GENESIS
        for row in rows:
            entry = change(entry_from_row(row))
            hash_ = entry_hash(entry.seq, entry.time, entry.charge, entry.epsilon_after, previous)
            charged = [getattr(entry.charge, field.name) for field in fields(Charge)]
            signature = signer.sign(SIGNATURE_CONTEXT, bytes.fromhex(hash_))
            values = [
                entry.seq,
                entry.time,
                *charged,
                entry.epsilon_after,
                previous,
                hash_,
                signature,
            ]
            raw.execute(f"INSERT INTO entries VALUES ({', '.join('?' * len(values))})", values)
            previous = hash_


def test_a_ledger_in_order_has_no_findings_and_its_rows_add_up(path: Path) -> None:
    audit = _audit(path)
    assert audit.findings == ()
    assert audit.first_broken is None
    assert audit.entries == ENTRIES
    assert audit.head[0] == ENTRIES
    event = GaussianEvent(0.1, 2.0)
    assert [(row.round, row.releases) for row in audit.rounds] == [(0, 8), (1, 8), (2, 8)]
    for number, row in enumerate(audit.rounds, start=1):
        assert row.epsilon_so_far == epsilon({event: 8 * number}, DELTA)
        assert row.epsilon_alone == pytest.approx(epsilon({event: 8}, DELTA), rel=0.05)
        assert (row.run, row.site, row.mode) == (CHARGE.run, "clinic-a", "distributed")


def test_the_audit_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    _audit(path)
    assert path.read_bytes() == before


def test_another_delta_is_recomputed(path: Path) -> None:
    audit = audit_ledger(path, SITE.public_key_bytes, SITE.site, delta=1e-3)
    assert audit.findings == ()
    expected = epsilon({GaussianEvent(0.1, 2.0): 24}, 1e-3)
    assert audit.rounds[-1].epsilon_so_far == pytest.approx(expected, rel=0.03)
    assert audit.rounds[-1].delta == 1e-3


FLIPS = {
    "time": "time + 1",
    "run": "'f'",
    "session": "'f'",
    "round": "round + 1",
    "step": "step + 1",
    "attempt": "attempt + 1",
    "dataset": "'f'",
    "unit": "'patient'",
    "mode": "'local'",
    "mechanism": "'none'",
    "sampling_rate": "sampling_rate / 2",
    "noise_multiplier": "noise_multiplier * 2",
    "clipping_norm": "clipping_norm * 2",
    "releases": "releases - 1",
    "delta": "delta * 2",
    "plan": "'f'",
    "epsilon_after": "epsilon_after * 0.9999999",
    "previous_hash": "hash",
    "hash": "previous_hash || ''",
    "signature": "zeroblob(64)",
}


@pytest.mark.parametrize("column", FLIPS)
def test_every_altered_field_is_found_at_its_entry(path: Path, column: str) -> None:
    changed = FLIPS[column] if column != "hash" else "'" + "f" * 64 + "'"
    _tamper(path, f"UPDATE entries SET {column} = {changed} WHERE seq = 3")
    assert _first(path)[0] == 3


def test_every_field_is_among_them(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        columns = {row[1] for row in raw.execute("PRAGMA table_info(entries)")}
    assert set(FLIPS) | {"seq"} == columns


@pytest.mark.parametrize("value", ["mode = 'nonsense'", "releases = -5", "sampling_rate = 7.0"])
def test_an_unreadable_entry_is_found(path: Path, value: str) -> None:
    _tamper(path, f"UPDATE entries SET {value} WHERE seq = 4")
    assert _first(path) == (4, _first(path)[1])
    assert "cannot be read" in _first(path)[1]


def test_a_deleted_entry_is_found(path: Path) -> None:
    _tamper(path, "DELETE FROM entries WHERE seq = 3")
    assert _first(path) == (3, "it is missing")


def test_a_deleted_entry_with_its_number_given_away_is_found(path: Path) -> None:
    _tamper(
        path,
        "DELETE FROM entries WHERE seq = 3",
        "UPDATE entries SET seq = seq - 1 WHERE seq > 3",
    )
    assert _first(path) == (3, "it does not continue the entry before it")


def test_entries_in_another_order_are_found(path: Path) -> None:
    _tamper(
        path,
        "UPDATE entries SET seq = 100 WHERE seq = 2",
        "UPDATE entries SET seq = 2 WHERE seq = 3",
        "UPDATE entries SET seq = 3 WHERE seq = 100",
    )
    assert _first(path)[0] == 2


def test_an_inserted_entry_is_found(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        row = list(raw.execute("SELECT * FROM entries WHERE seq = 6").fetchone())
    entry = entry_from_row(tuple(row))
    hash_ = entry_hash(7, entry.time, entry.charge, entry.epsilon_after, entry.hash)
    row[0], row[-3:] = (
        7,
        [entry.hash, hash_, STRANGER.sign(SIGNATURE_CONTEXT, bytes.fromhex(hash_))],
    )
    with sqlite3.connect(path) as raw:
        raw.execute(f"INSERT INTO entries VALUES ({', '.join('?' * len(row))})", row)
    number, problem = _first(path)
    assert number == 7
    assert "signature is not by the key of clinic-a" in problem


def test_a_chain_signed_anew_with_another_key_is_found(path: Path) -> None:
    _rewrite(path, lambda entry: entry, STRANGER)
    assert _first(path)[0] == 1


def test_a_consistent_rewrite_by_the_sites_own_key_passes_only_if_epsilon_fits(path: Path) -> None:
    _rewrite(path, lambda entry: entry)
    assert _audit(path).findings == ()


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9])
def test_epsilon_understated_by_the_site_itself_is_found(path: Path, factor: float) -> None:
    def understate(entry: Entry) -> Entry:
        return replace(entry, epsilon_after=entry.epsilon_after * (factor if entry.seq == 4 else 1))

    _rewrite(path, understate)
    number, problem = _first(path)
    assert number == 4
    assert "cost at least" in problem


def test_more_noise_than_was_added_is_found_by_recomputation(path: Path) -> None:
    def shrink(entry: Entry) -> Entry:
        charge = replace(entry.charge, noise_multiplier=4.0 if entry.seq >= 3 else 2.0)
        return replace(entry, charge=charge)

    _rewrite(path, shrink)
    number, problem = _first(path)
    assert number > 3
    assert "cost at most" in problem


def test_hardly_any_noise_cannot_claim_a_small_epsilon(path: Path) -> None:
    def weaken(entry: Entry) -> Entry:
        noise = 1e-300 if entry.seq == 2 else 2.0
        return replace(entry, charge=replace(entry.charge, noise_multiplier=noise))

    _rewrite(path, weaken)
    number, problem = _first(path)
    assert number == 2
    assert "cost at least" in problem


def test_a_release_without_privacy_cannot_claim_a_finite_epsilon(path: Path) -> None:
    def bare(entry: Entry) -> Entry:
        if entry.seq != 2:
            return entry
        return replace(entry, charge=replace(entry.charge, mode="unsafe_none"))

    _rewrite(path, bare)
    assert _first(path)[0] == 2


def test_a_ledger_with_several_datasets_deltas_and_releases_without_privacy_is_in_order(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    bare = replace(CHARGE, mode="unsafe_none", mechanism="none", noise_multiplier=0.0)
    _write(
        path,
        [
            CHARGE,
            replace(CHARGE, step=1, dataset="c" * 64, sampling_rate=1.0, noise_multiplier=8.0),
            replace(CHARGE, step=2, run="2" * 32, delta=1e-6),
            replace(bare, step=3, dataset="b" * 64),
            replace(CHARGE, step=4, dataset="b" * 64),
            replace(CHARGE, step=5, noise_multiplier=5.0, sampling_rate=0.01),
        ],
    )
    audit = _audit(path)
    assert audit.findings == ()
    assert [math.isinf(row.epsilon_so_far) for row in audit.rounds] == [False] * 3 + [True] * 2 + [
        False
    ]
    assert math.isinf(audit.rounds[3].epsilon_alone)
    assert math.isfinite(audit.rounds[4].epsilon_alone)


@pytest.mark.parametrize("rate", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0, 40.0])
@pytest.mark.parametrize("releases", [1, 100])
def test_the_ledgers_accountant_lies_within_the_bounds(
    tmp_path: Path, rate: float, noise: float, releases: int
) -> None:
    path = tmp_path / "ledger.sqlite"
    _write(
        path,
        [replace(CHARGE, sampling_rate=rate, noise_multiplier=noise, releases=releases)],
    )
    assert _audit(path).findings == ()


def test_a_clock_set_back_is_a_warning(path: Path) -> None:
    _rewrite(path, lambda e: replace(e, time=e.time - (3600 if e.seq == 5 else 0)))
    (finding,) = _audit(path).findings
    assert (finding.entry, finding.severity) == (5, Severity.WARNING)
    assert _audit(path).first_broken is None


def test_thousands_of_entries_are_audited_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    _write(path, [])
    event, total, previous = GaussianEvent(0.01, 4.0), 3_000, GENESIS

    with sqlite3.connect(path) as raw:
        for seq in range(1, total + 1):
            after = _interpolated(event, seq)
            charge = replace(
                CHARGE,
                step=seq,
                releases=1,
                sampling_rate=0.01,
                noise_multiplier=4.0,
                round=seq // 100,
            )
            hash_ = entry_hash(seq, float(seq), charge, after, previous)
            signature = SITE.sign(SIGNATURE_CONTEXT, bytes.fromhex(hash_))
            charged = [getattr(charge, field.name) for field in fields(Charge)]
            values = [seq, float(seq), *charged, after, previous, hash_, signature]
            raw.execute(f"INSERT INTO entries VALUES ({', '.join('?' * len(values))})", values)
            previous = hash_
    start = time.perf_counter()
    audit = _audit(path)
    assert audit.findings == ()
    assert len(audit.rounds) == 31
    assert time.perf_counter() - start < 60


def _interpolated(event: GaussianEvent, releases: int) -> float:
    """Returns an ε for so many releases from the accountant's at neighbouring powers of 1.2."""
    low = 1.2 ** math.floor(math.log(releases, 1.2))
    below, above = math.floor(low), math.ceil(low * 1.2) + 1
    share = (releases - below) / (above - below)
    return (1 - share) * epsilon({event: below}, DELTA) + share * epsilon({event: above}, DELTA)


def test_a_file_that_is_missing_or_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no ledger"):
        _audit(tmp_path / "ledger.sqlite")
    (tmp_path / "ledger.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(HortusError, match="not a database"):
        _audit(tmp_path / "ledger.sqlite")
