"""An audit names the first entry that does not fit, whoever altered the ledger and however."""

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from hortus.privacy.accounting import GaussianEvent, epsilon
from hortus.privacy.audit import Audit, Severity, audit_ledger
from hortus.privacy.entries import GENESIS, Charge, Charged, Entry, Level, Scope
from hortus.privacy.ledger import SELECT_ENTRIES, Ledger
from hortus.protocol.canonical import canonical_json
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
        ledger.charge(charge, None)
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


def _read(path: Path) -> list[Entry]:
    with sqlite3.connect(path) as raw:
        return [Entry.parse(*row) for _, *row in raw.execute(SELECT_ENTRIES)]


def _store(path: Path, entries: list[Entry]) -> None:
    _tamper(path, "DELETE FROM entries")
    with sqlite3.connect(path) as raw:
        for e in entries:
            row = (e.seq, e.content, e.hash, e.signature)
            raw.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)


def _rewrite(
    path: Path,
    change: Callable[[int, Charge, float], tuple[Charge, float]],
    signer: SiteIdentity = SITE,
) -> None:
    """Rewrites the whole chain consistently, as somebody with a key could."""
    entries: list[Entry] = []
    for entry in _read(path):
        assert isinstance(entry.body, Charged)
        charge, after = change(entry.seq, entry.body.charge, entry.body.epsilon_after)
        entries.append(_entry(entries, entry.time, charge, after, signer))
    _store(path, entries)


def _entry(
    before: list[Entry], time: float, charge: Charge, after: float, signer: SiteIdentity = SITE
) -> Entry:
    body = Charged(charge, (Level(Scope.LIFETIME, "", after, math.inf),))
    previous = before[-1].hash if before else GENESIS
    return Entry.make(len(before) + 1, time, body, previous, signer)


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
    "time": "0x1.0p+30",
    "run": "f",
    "session": "f",
    "round": 9,
    "step": 9,
    "attempt": 9,
    "dataset": "f",
    "unit": "patient",
    "mode": "local",
    "mechanism": "none",
    "sampling_rate": (0.05).hex(),
    "noise_multiplier": (4.0).hex(),
    "clipping_norm": (0.2).hex(),
    "releases": 3,
    "delta": (2e-5).hex(),
    "plan": "f",
    "epsilon": (0.01).hex(),
    "limit": (5.0).hex(),
    "scope": "plan",
    "period": "2026",
    "previous_hash": "f" * 64,
    "seq": 4,
    "kind": "grant",
    "format": "hortus/v1/ledger",
}


def _flip(value: object, name: str, changed: object) -> object:
    if isinstance(value, list):
        return [_flip(item, name, changed) for item in value]
    if isinstance(value, dict):
        return {k: changed if k == name else _flip(v, name, changed) for k, v in value.items()}
    return value


def _leaves(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_leaves, value))
    if isinstance(value, dict):
        inner = set().union(*map(_leaves, value.values()))
        return inner | {k for k, v in value.items() if not isinstance(v, list | dict)}
    return set()


@pytest.mark.parametrize("field", FLIPS)
def test_every_altered_field_is_found_at_its_entry(path: Path, field: str) -> None:
    entry = _read(path)[2]
    content = _flip(json.loads(entry.content), field, FLIPS[field])
    assert isinstance(content, dict)
    _tamper(
        path, f"UPDATE entries SET content = '{canonical_json(content).decode()}' WHERE seq = 3"
    )
    assert _first(path)[0] == 3


def test_every_field_is_among_them(path: Path) -> None:
    assert set(FLIPS) == _leaves(json.loads(_read(path)[2].content))


@pytest.mark.parametrize(
    "change",
    [
        "hash = previous || ''",
        "signature = zeroblob(64)",
        "signature = x''",
        "content = ''",
        "content = '[]'",
        "content = '{}'",
        "content = replace(content, ',', ', ')",
    ],
)
def test_every_altered_column_is_found_at_its_entry(path: Path, change: str) -> None:
    change = change.replace("previous || ''", "'" + "f" * 64 + "'")
    _tamper(path, f"UPDATE entries SET {change} WHERE seq = 3")
    assert _first(path)[0] == 3


def test_a_deleted_entry_is_found(path: Path) -> None:
    _tamper(path, "DELETE FROM entries WHERE seq = 3")
    assert _first(path) == (3, "it is missing")


def test_a_deleted_entry_with_its_number_given_away_is_found(path: Path) -> None:
    _tamper(
        path,
        "DELETE FROM entries WHERE seq = 3",
        "UPDATE entries SET seq = seq - 1 WHERE seq > 3",
    )
    assert _first(path) == (3, "it says that it is number 4")


def test_entries_in_another_order_are_found(path: Path) -> None:
    _tamper(
        path,
        "UPDATE entries SET seq = 100 WHERE seq = 2",
        "UPDATE entries SET seq = 2 WHERE seq = 3",
        "UPDATE entries SET seq = 3 WHERE seq = 100",
    )
    assert _first(path)[0] == 2


def test_an_inserted_entry_is_found(path: Path) -> None:
    entries = _read(path)
    _store(path, [*entries, _entry(entries, 2e9, CHARGE, 1.0, STRANGER)])
    number, problem = _first(path)
    assert number == 7
    assert "signature is not by the key of clinic-a" in problem


def test_a_chain_signed_anew_with_another_key_is_found(path: Path) -> None:
    _rewrite(path, lambda _, charge, after: (charge, after), STRANGER)
    assert _first(path)[0] == 1


def test_a_consistent_rewrite_by_the_sites_own_key_passes_only_if_epsilon_fits(path: Path) -> None:
    _rewrite(path, lambda _, charge, after: (charge, after))
    assert _audit(path).findings == ()


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9])
def test_epsilon_understated_by_the_site_itself_is_found(path: Path, factor: float) -> None:
    def understate(seq: int, charge: Charge, after: float) -> tuple[Charge, float]:
        return charge, after * (factor if seq == 4 else 1)

    _rewrite(path, understate)
    number, problem = _first(path)
    assert number == 4
    assert "cost at least" in problem


def test_more_noise_than_was_added_is_found_by_recomputation(path: Path) -> None:
    def shrink(seq: int, charge: Charge, after: float) -> tuple[Charge, float]:
        return replace(charge, noise_multiplier=4.0 if seq >= 3 else 2.0), after

    _rewrite(path, shrink)
    number, problem = _first(path)
    assert number > 3
    assert "cost at most" in problem


def test_hardly_any_noise_cannot_claim_a_small_epsilon(path: Path) -> None:
    def weaken(seq: int, charge: Charge, after: float) -> tuple[Charge, float]:
        return replace(charge, noise_multiplier=1e-300 if seq == 2 else 2.0), after

    _rewrite(path, weaken)
    number, problem = _first(path)
    assert number == 2
    assert "cost at least" in problem


def test_a_release_without_privacy_cannot_claim_a_finite_epsilon(path: Path) -> None:
    def bare(seq: int, charge: Charge, after: float) -> tuple[Charge, float]:
        return replace(charge, mode="unsafe_none" if seq == 2 else charge.mode), after

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
    entries: list[Entry] = []
    for entry in _read(path):
        time_ = entry.time - (3600 if entry.seq == 5 else 0)
        previous = entries[-1].hash if entries else GENESIS
        entries.append(Entry.make(entry.seq, time_, entry.body, previous, SITE))
    _store(path, entries)
    (finding,) = _audit(path).findings
    assert (finding.entry, finding.severity) == (5, Severity.WARNING)
    assert _audit(path).first_broken is None


def test_a_file_that_is_missing_or_no_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no ledger"):
        _audit(tmp_path / "ledger.sqlite")
    (tmp_path / "ledger.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(HortusError, match="not a database"):
        _audit(tmp_path / "ledger.sqlite")
