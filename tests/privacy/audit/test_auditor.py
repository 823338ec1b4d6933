"""An audit names the first entry that does not fit, whoever altered the ledger and however."""

import gzip
import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.charges import make_approval, make_charge, make_content

from hortus.client.consent.approval import approval
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit import chain as audit_chain
from hortus.privacy.audit.auditor import Audit, audit
from hortus.privacy.audit.evidence import Evidence, Row, export, load, read_evidence
from hortus.privacy.audit.findings import Finding, Severity
from hortus.privacy.audit.noise import noise_range
from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.decisions import (
    Admitted,
    Approved,
    Declined,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import GENESIS, Body, Entry, content_hash
from hortus.privacy.ledger.reader import SELECT_ENTRIES
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Plan
from hortus.protocol.policy import Budget, Every, PeriodBudget
from hortus.runtime.canonical import canonical_json
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.names import SERVER

SITE = Identity.generate("clinic-a")
STRANGER = Identity.generate("stranger")
OWN = Identity.generate(SERVER)
ROSTER = Roster({SITE.site: SITE.public_key_bytes}, OWN.public_key_bytes)
DELTA = 1e-5
CHARGE = make_charge(sampling_rate=0.1, noise_multiplier=2.0, releases=4)
ENTRIES = 7  # the approval, and six charges


def _write(path: Path, charges: list[Charge], *approvals: Approved) -> None:
    ticks = count(1_800_000_000)
    ledger = Ledger.open(path, SITE, lambda: float(next(ticks)))
    for plan in dict.fromkeys(charge.plan for charge in charges):
        for approved in approvals or [make_approval(plan)]:
            ledger.record(approved)
    for charge in charges:
        ledger.charge(charge, None)
    ledger.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    _write(path, [replace(CHARGE, step=n, round=n // 2) for n in range(ENTRIES - 1)])
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "ledger.sqlite"))


def _evidence(path: Path, contracts: Mapping[str, str] | None = None) -> Evidence:
    """Reads a ledger that has no site's folder around it."""
    return read_evidence(SITE.site, path, ROSTER, contracts or {})


def _audit(path: Path) -> Audit:
    return audit(_evidence(path), ROSTER)


def _unbroken(audited: Audit) -> bool:
    return audited.first_broken is None


def _broken(path: Path) -> list[Finding]:
    return [f for f in _audit(path).findings if f.severity is Severity.BROKEN]


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
    signer: Identity = SITE,
) -> None:
    """Rewrites the whole chain consistently, as somebody with a key could."""
    entries: list[Entry] = []
    for entry in _read(path):
        if not isinstance(entry.body, Charged):
            previous = entries[-1].hash if entries else GENESIS
            entries.append(Entry.make(entry.seq, entry.time, entry.body, previous, signer))
            continue
        charge, after = change(entry.seq, entry.body.charge, entry.body.epsilon_after)
        entries.append(_entry(entries, entry.time, charge, after, signer))
    _store(path, entries)


def _entry(
    before: list[Entry], time: float, charge: Charge, after: float, signer: Identity = SITE
) -> Entry:
    body = Charged(charge, CHARGE.dataset, (), (Level(Scope.LIFETIME, "", after, math.inf),))
    previous = before[-1].hash if before else GENESIS
    return Entry.make(len(before) + 1, time, body, previous, signer)


def test_a_ledger_in_order_has_no_findings_and_its_rows_add_up(path: Path) -> None:
    audited = _audit(path)
    assert _unbroken(audited)
    assert audited.first_broken is None
    assert audited.entries == ENTRIES
    assert audited.head[0] == ENTRIES
    event = GaussianEvent(0.1, 2.0)
    assert [(row.round, row.releases) for row in audited.rounds] == [(0, 8), (1, 8), (2, 8)]
    for number, row in enumerate(audited.rounds, start=1):
        assert row.epsilon_so_far == epsilon({event: 8 * number}, DELTA)
        assert row.epsilon_alone == pytest.approx(epsilon({event: 8}, DELTA), rel=1e-3)
        assert (row.run, row.site, row.mode) == (CHARGE.run, "clinic-a", "distributed")


def test_the_audit_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    _audit(path)
    assert path.read_bytes() == before


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
    "account": "f",
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
    assert number == ENTRIES + 1
    assert "signature is not by the key of clinic-a" in problem


def test_a_chain_signed_anew_with_another_key_is_found(path: Path) -> None:
    _rewrite(path, lambda _, charge, after: (charge, after), STRANGER)
    assert _first(path)[0] == 1


def test_a_consistent_rewrite_by_the_sites_own_key_passes_only_if_epsilon_fits(path: Path) -> None:
    _rewrite(path, lambda _, charge, after: (charge, after))
    assert _unbroken(_audit(path))


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
    assert number == 3
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
        changed = {"mode": "unsafe_none", "mechanism": "none", "noise_multiplier": 0.0}
        return replace(charge, **(changed if seq == 2 else {})), after  # type: ignore[arg-type]

    _rewrite(path, bare)
    assert _first(path)[0] == 2


def _keep_apart(ledger: Ledger, dataset: str) -> None:
    """Shows the ledger a content with one person in it, who is in no other."""
    content = make_content(dataset, dataset)
    accounts = list(ledger.accounts())
    if accounts and dataset not in ledger.contents():
        ledger.state_disjoint(content, accounts, "Ada", "another ward")
    ledger.follow(content)


def test_a_ledger_with_several_datasets_deltas_and_releases_without_privacy_is_in_order(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    bare = replace(CHARGE, mode="unsafe_none", mechanism="none", noise_multiplier=0.0)
    with closing(Ledger.open(path, SITE, lambda: 1.8e9)) as ledger:
        ledger.record(make_approval())
        for charge in (
            CHARGE,
            replace(CHARGE, step=1, dataset="c" * 64, sampling_rate=1.0, noise_multiplier=8.0),
            replace(CHARGE, run="2" * 32, session="2" * 32, delta=1e-6),
            replace(bare, step=3, dataset="b" * 64),
            replace(CHARGE, step=4, dataset="b" * 64),
            replace(CHARGE, step=5, noise_multiplier=5.0, sampling_rate=0.01),
        ):
            _keep_apart(ledger, charge.dataset)
            ledger.charge(charge, None)
    audited = _audit(path)
    assert _unbroken(audited)
    assert [math.isinf(row.epsilon_so_far) for row in audited.rounds] == [False] * 3 + [
        True
    ] * 2 + [False]
    assert math.isinf(audited.rounds[3].epsilon_alone)
    assert math.isfinite(audited.rounds[4].epsilon_alone)


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
    assert _unbroken(_audit(path))


def test_a_clock_set_back_is_a_warning(path: Path) -> None:
    entries: list[Entry] = []
    for entry in _read(path):
        time_ = entry.time - (3600 if entry.seq == 5 else 0)
        previous = entries[-1].hash if entries else GENESIS
        entries.append(Entry.make(entry.seq, time_, entry.body, previous, SITE))
    _store(path, entries)
    (finding,) = [f for f in _audit(path).findings if "older" in f.problem]
    assert (finding.entry, finding.severity) == (5, Severity.WARNING)
    assert _broken(path) == []


def test_refusals_stand_in_the_row_of_their_round_and_nothing_is_released_in_it(
    tmp_path: Path,
) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite", SITE, lambda: 1.8e9)
    spent = Declined(CHARGE.plan, CHARGE.run, 1, CHARGE.dataset, "its budget is spent")
    ledger.decline(replace(spent, run="", reason="not approved here"))
    ledger.record(make_approval())
    ledger.charge(CHARGE, None)
    ledger.decline(replace(spent, round=0, reason="used before"))
    ledger.decline(spent)
    ledger.close()
    audited = _audit(tmp_path / "ledger.sqlite")
    assert _unbroken(audited)
    assert [(one.entry, one.run, one.reason) for one in audited.refusals] == [
        (1, "", "not approved here"),
        (4, CHARGE.run, "used before"),
        (5, CHARGE.run, "its budget is spent"),
    ]
    rows = [(row.round, row.releases, row.refusals) for row in audited.rounds]
    assert rows == [(0, 4, 1), (1, 0, 1)]
    assert audited.rounds[1].epsilon_alone == 0.0
    assert audited.rounds[1].epsilon_so_far == audited.rounds[0].epsilon_so_far


# A real ledger of every kind of entry, and everything that can be done to one.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, two scopes, an approval, an admission, a withdrawal, a grant, a freeze, a refusal; each head countersigned as a server would."""
    path = tmp_path_factory.mktemp("mixed") / "ledger.sqlite"
    ticks = count(1_800_000_000)
    ledger = Ledger.open(path, SITE, lambda: float(next(ticks)))
    budget = Budget(epsilon=3.0, delta=DELTA, per_plan=2.0, per_period=PeriodBudget(epsilon=2.5))

    def countersign() -> None:
        head = ledger.signed_head()
        assert head is not None
        ledger.keep(Countersignature.make(OWN, head, 1.8e9))

    ledger.record(make_approval())
    countersign()
    ledger.follow(make_content("d" * 64, "Dora"))
    for step in range(3):
        ledger.commit(ledger.reserve(replace(CHARGE, step=step), budget))
        ledger.mark_sent(CHARGE.session, step, 0)
        countersign()
    ledger.state_disjoint(make_content("c" * 64, "Carol"), ["d" * 64], "Ada", "another ward")
    countersign()
    for body in (Granted("d" * 64, 1.0, "board"), Frozen("*", "incident"), Unfrozen("*", "closed")):
        ledger.record(body)
        countersign()
    ledger.admit(Admitted("f" * 64, "other", "record", 2.0, DELTA))
    countersign()
    ledger.charge(replace(CHARGE, run="2" * 32, session="2" * 32, plan="f" * 64), budget)
    countersign()
    ledger.record(Withdrawn("f" * 64, "other", "Ada", "a doubt"))
    countersign()
    ledger.decline(Declined("f" * 64, "2" * 32, 1, "d" * 64, "its budget is spent"))
    countersign()
    ledger.close()
    return path


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place of a JSON value that holds no other."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    inner = [p for key, item in items for p in _paths(item, (*path, key))]
    return inner or [path]


def _changed(value: Any, path: tuple[str | int, ...]) -> Any:
    """Returns a copy with the leaf at `path` changed to another value of its kind."""
    if not path:
        if isinstance(value, int):
            return value + 1
        if isinstance(value, str) and value.startswith("0x"):
            return (float.fromhex(value) * 1.25).hex()
        return value[:-1] + ("0" if value[-1:] != "0" else "1") if value else "x"
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = _changed(value[path[0]], path[1:])
    return copy


def _damaged(value: Any) -> Iterator[Any]:
    """Every JSON object in a value with a field fewer, and with one more."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
        yield {**value, "x": 0}
    for key, item in items:
        if isinstance(item, dict | list):
            for other in _damaged(item):
                copy = list(value) if isinstance(value, list) else dict(value)
                copy[key] = other
                yield copy


def _mutations(content: str) -> list[str]:
    """An entry's content with every leaf changed, every field dropped, and one added everywhere."""
    value = json.loads(content)
    values = [_changed(value, path) for path in _paths(value)] + list(_damaged(value))
    return [canonical_json(one).decode() for one in values]


def _row(content: str, row: Row, signer: Identity | None) -> Row:
    """A row with another content: left with the old hash, or hashed and signed anew."""
    if signer is None:
        return (row[0], content, *row[2:])
    hash_ = content_hash(content)
    return (row[0], content, hash_, signer.sign("ledger entry", bytes.fromhex(hash_)))


def _chained(rows: Sequence[Row], signer: Identity) -> tuple[Row, ...]:
    """Numbers, chains, hashes and signs rows anew, as who has a key would to hide a change."""
    chained: list[Row] = []
    for number, row in enumerate(rows, start=1):
        content = json.loads(row[1]) | {
            "seq": number,
            "previous_hash": chained[-1][2] if chained else GENESIS,
        }
        chained.append(_row(canonical_json(content).decode(), (number, *row[1:]), signer))
    return tuple(chained)


def test_every_mutation_of_every_field_of_every_entry_is_found_at_its_entry(mixed: Path) -> None:
    evidence = _evidence(mixed)
    assert _first_entry(evidence) is None
    assert {json.loads(row[1])["kind"] for row in evidence.rows} == {
        kind.kind for kind in get_args(Body)
    }
    mutations = 0
    for index, row in enumerate(evidence.rows):
        altered = [
            _row(content, row, signer)
            for content in _mutations(row[1])
            for signer in (None, STRANGER, SITE)
        ]
        altered += [
            (row[0], row[1], "f" * 64, row[3]),
            (row[0], row[1], row[2].upper(), row[3]),
            (row[0], row[1], row[2], row[3][::-1]),
            (row[0], row[1], row[2], STRANGER.sign("ledger entry", bytes.fromhex(row[2]))),
            (row[0], row[1], row[2], SITE.sign("ledger head", bytes.fromhex(row[2]))),
            (row[0], row[1], row[2], b""),
            (row[0], "", row[2], row[3]),
        ]
        for other in altered:
            # What comes after it could only be found after it.
            rows = (*evidence.rows[:index], other)
            assert _first_entry(replace(evidence, rows=rows)) == row[0], other
            mutations += 1
    assert mutations > 600


def test_signatures_that_other_processes_check_are_as_good(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = _evidence(mixed)
    wrong = list(evidence.rows)
    for index in (4, 8):
        wrong[index] = (*wrong[index][:3], wrong[index][3][::-1])
    broken = replace(evidence, rows=tuple(wrong))
    alone = audit(broken, ROSTER)
    found = [finding for finding in alone.findings if finding.severity is Severity.BROKEN]
    assert [finding.entry for finding in found] == [5, 9]
    monkeypatch.setattr(audit_chain, "_MANY", 1)
    monkeypatch.setattr(audit_chain, "_CHUNK", 3)
    monkeypatch.setattr(audit_chain, "processors", lambda: 8)
    assert audit(broken, ROSTER) == alone
    assert _first_entry(evidence) is None


def test_a_change_that_the_site_itself_hides_under_new_signatures_is_found_at_its_entry(
    mixed: Path,
) -> None:
    """All later entries fit the changed one; what others have seen of it does not."""
    evidence = _evidence(mixed)
    for index, row in enumerate(evidence.rows):
        value = json.loads(row[1])
        for path in _paths(value):
            if path[0] in ("seq", "previous_hash"):
                continue  # put right by the new chain
            changed = _row(canonical_json(_changed(value, path)).decode(), row, None)
            rows = [*evidence.rows[:index], changed, *evidence.rows[index + 1 :]]
            for signer in (SITE, STRANGER):
                kept, anew = evidence.rows[:index], _chained(rows, signer)[index:]
                found = _first_entry(replace(evidence, rows=(*kept, *anew)))
                assert found == row[0], (path, signer.site)


def test_every_drop_insertion_and_exchange_is_found_at_its_entry(mixed: Path) -> None:
    evidence = _evidence(mixed)
    rows = evidence.rows
    inserted = Entry.make(1, 1.8e9, Granted("d" * 64, 9.0, "no board"), GENESIS, SITE)
    for index, row in enumerate(rows):
        changed = [
            rows[:index] + rows[index + 1 :],
            # With the numbers closed up, as an attacker without the key would.
            [(seq - (seq > row[0]), *rest) for seq, *rest in rows if seq != row[0]],
            *(_chained(rows[:index] + rows[index + 1 :], signer) for signer in (SITE, STRANGER)),
        ]
        more = (row[0], inserted.content, inserted.hash, inserted.signature)
        later = [(seq + 1, *rest) for seq, *rest in rows[index:]]
        changed += [
            [*rows[:index], more, *later],
            *(
                _chained([*rows[:index], more, *rows[index:]], signer)
                for signer in (SITE, STRANGER)
            ),
        ]
        for other in range(index + 1, len(rows)):
            swapped = list(rows)
            swapped[index] = (row[0], *rows[other][1:])
            swapped[other] = (rows[other][0], *row[1:])
            changed += [swapped, *(_chained(swapped, signer) for signer in (SITE, STRANGER))]
        for number, one in enumerate(changed):
            # A key of somebody else's is found where it is first used.
            anew = tuple(one) if one[:index] == rows[:index] else (*rows[:index], *one[index:])
            assert _first_entry(replace(evidence, rows=anew)) == row[0], (row[0], number)
        copied = [(seq + (seq > row[0]), *rest) for seq, *rest in rows]
        copied.insert(index + 1, (row[0] + 1, *row[1:]))
        assert _first_entry(replace(evidence, rows=tuple(copied))) == row[0] + 1


Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def bundle(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """The lines of an exported bundle of the mixed ledger, but for the last, which counts them."""
    path = tmp_path_factory.mktemp("bundle") / "whole.evidence"
    export(_evidence(mixed, {"a" * 64: "{}"}), path)
    assert _first_entry(load(path)) is None
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][:-1]


def _pack(path: Path, lines: Lines) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"end": len(lines) - 1}])
    path.write_bytes(gzip.compress(text.encode()))
    return path


def _loaded(lines: Lines, path: Path) -> Evidence | None:
    """What a bundle of these lines holds; None if it is refused as none."""
    try:
        return load(_pack(path, lines))
    except UsageError:
        return None


def test_every_change_to_a_bundle_is_found_at_its_entry(bundle: Lines, tmp_path: Path) -> None:
    """Value by value and line by line; a bundle that cannot be read is refused."""
    mutations, path = 0, tmp_path / "changed.evidence"
    for index, line in enumerate(bundle):
        for altered in [_changed(line, place) for place in _paths(line)]:
            evidence = _loaded([*bundle[:index], altered, *bundle[index + 1 :]], path)
            mutations += 1
            if "entry" in line and evidence is not None:
                assert _first_entry(evidence) in (line["entry"][0], altered["entry"][0])
            elif "countersignature" in line and evidence is not None:
                audited = audit(evidence, ROSTER)
                named = altered["countersignature"][0]
                assert any(f.entry == named and "vouches" in f.problem for f in audited.findings)
        if "entry" in line:
            number = line["entry"][0]
            for lines in (
                [*bundle[:index], *bundle[index + 1 :]],
                [*bundle[: index + 1], *bundle[index:]],
            ):
                evidence = _loaded(lines, path)
                assert evidence is not None
                assert _first_entry(evidence) in (number, number + 1)
    assert mutations > 60


def test_a_bundle_of_another_site_roster_or_with_more_sent_is_found(
    bundle: Lines, tmp_path: Path
) -> None:
    head, *others = bundle
    roster = json.loads(
        json.dumps(head["roster"]).replace(
            SITE.public_key_bytes.hex(), STRANGER.public_key_bytes.hex()
        )
    )
    for number, lines in (
        (1, [head | {"site": "clinic-b"}, *others]),
        (1, [head | {"roster": roster}, *others]),
        (0, [*bundle, {"sent": ["9" * 32, 0, 0]}]),
    ):
        evidence = _loaded(lines, tmp_path / "changed.evidence")
        assert evidence is not None
        finding = audit(evidence, evidence.roster).first_broken
        assert finding is not None
        assert finding.entry == number


def _first_entry(evidence: Evidence) -> int | None:
    finding = audit(evidence, ROSTER).first_broken
    return None if finding is None else finding.entry


def test_a_rollback_is_found_by_countersignature_and_by_anchor(mixed: Path) -> None:
    evidence = _evidence(mixed)
    anchor = LedgerHead.sign(SITE, evidence.rows[-1][0], evidence.rows[-1][2])
    assert audit(evidence, ROSTER, anchor).first_broken is None
    older = replace(evidence, rows=evidence.rows[:4])
    finding = audit(older, ROSTER).first_broken
    assert finding is not None
    assert (finding.entry, "server countersigned" in finding.problem) == (5, True)
    # A whole older disk image has no countersignature of what came later; the anchor has.
    image = replace(older, countersignatures=evidence.countersignatures[:4])
    assert audit(image, ROSTER).first_broken is None
    finding = audit(image, ROSTER, anchor).first_broken
    assert finding is not None
    assert (finding.entry, "the anchor holds entry 12" in finding.problem) == (5, True)


def test_a_countersignature_of_another_server_is_a_warning_and_vouches_for_nothing(
    mixed: Path,
) -> None:
    """An honest site keeps those of a server that was replaced without a hand-over."""
    evidence = _evidence(mixed)
    for hash_ in (evidence.rows[1][2], "f" * 64):
        forged = Countersignature.make(STRANGER, LedgerHead(SITE.site, 2, hash_, b""), 1.8e9)
        audited = audit(replace(evidence, countersignatures=(forged,)), ROSTER)
        (finding,) = [f for f in audited.findings if "for nothing" in f.problem]
        assert (finding.entry, finding.severity) == (2, Severity.WARNING)
        assert (audited.countersigned, audited.countersigned_time) == (0, 0.0)


@pytest.mark.parametrize(
    ("shift", "warned"), [(0.0, 0), (3000.0, 0), (-90_000.0, 1), (90_000.0, 11)]
)
def test_a_time_that_the_servers_clock_contradicts_is_a_warning(
    mixed: Path, shift: float, warned: int
) -> None:
    """A month that is opened before it has come, or opened again, has a budget of its own."""
    evidence = _evidence(mixed)
    last = evidence.countersignatures[-1]
    moved = Countersignature.make(OWN, last.head, last.time + shift)
    first = evidence.countersignatures[0]
    if shift > 0:
        moved = Countersignature.make(OWN, first.head, first.time + shift)
    audited = audit(replace(evidence, countersignatures=(moved,)), ROSTER)
    found = [f for f in audited.findings if "the server countersigned" in f.problem]
    assert len({f.entry for f in found}) >= warned
    assert bool(found) == bool(warned)
    assert audited.first_broken is None


def test_a_vector_that_was_sent_and_not_charged_is_found(mixed: Path) -> None:
    evidence = _evidence(mixed)
    finding = audit(replace(evidence, sent=frozenset({("9" * 32, 0, 0)})), ROSTER).first_broken
    assert finding is not None
    assert "was sent but not charged" in finding.problem
    # One that counts on the noise of others is charged again with each attempt.
    finding = audit(
        replace(evidence, sent=frozenset({(CHARGE.session, 0, 1)})), ROSTER
    ).first_broken
    assert finding is not None
    assert "attempt 1 was sent but not charged" in finding.problem


@pytest.mark.parametrize("mode", ["local", "unsafe_none"])
def test_a_vector_that_needs_nobody_elses_noise_is_charged_once(path: Path, mode: str) -> None:
    bare = {"mechanism": "none", "noise_multiplier": 0.0} if mode == "unsafe_none" else {}
    path.unlink()
    _write(path, [replace(CHARGE, attempt=1, mode=mode, **bare)])  # type: ignore[arg-type]
    evidence = _evidence(path)
    for attempt, is_paid in ((1, True), (2, True), (0, False)):
        sent = frozenset({(CHARGE.session, 0, attempt)})
        assert _unbroken(audit(replace(evidence, sent=sent), ROSTER)) == is_paid


@pytest.mark.parametrize(
    ("bodies", "problem"),
    [
        (
            (
                Frozen("*", "why"),
                Charged(CHARGE, CHARGE.dataset, (), (Level(Scope.LIFETIME, "", 0.9, 3.0),)),
            ),
            "frozen",
        ),
        (
            (Charged(CHARGE, CHARGE.dataset, (), (Level(Scope.LIFETIME, "", 0.9, 0.5),)),),
            "over 0.5",
        ),
        (
            (
                Charged(
                    CHARGE,
                    CHARGE.dataset,
                    (),
                    (Level(Scope.LIFETIME, "", 0.9, 3.0), Level(Scope.PERIOD, "2031", 0.9, 3.0)),
                ),
            ),
            "its time is in another period",
        ),
    ],
    ids=["frozen", "limit", "period"],
)
def test_what_a_policy_forbade_is_found_though_the_site_signed_it(
    tmp_path: Path, bodies: tuple[Any, ...], problem: str
) -> None:
    path = tmp_path / "ledger.sqlite"
    _write(path, [])
    entries: list[Entry] = []
    for body in (make_approval(), *bodies):
        previous = entries[-1].hash if entries else GENESIS
        entries.append(Entry.make(len(entries) + 1, 1.8e9, body, previous, SITE))
    _store(path, entries)
    assert any(f.entry == 1 + len(bodies) and problem in f.problem for f in _broken(path))


def test_a_budget_raised_in_the_policy_alone_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, SITE, lambda: 1.8e9)
    ledger.record(make_approval())
    ledger.charge(CHARGE, Budget(epsilon=3.0, delta=DELTA))
    ledger.record(Granted("*", 1.0, "board"))
    ledger.charge(replace(CHARGE, step=1), Budget(epsilon=3.0, delta=DELTA))
    ledger.charge(replace(CHARGE, step=2), Budget(epsilon=9.0, delta=DELTA))
    ledger.close()
    raised = [f for f in _audit(path).findings if "policy.yaml allowed" in f.problem]
    assert [(f.entry, f.severity) for f in raised] == [(5, Severity.WARNING)]


def test_a_limit_that_is_set_later_counts_what_was_released_before_it(tmp_path: Path) -> None:
    """The ledger does; the audit must not take its honest ε for a lie."""
    path = tmp_path / "ledger.sqlite"
    month = 30 * 86400
    times = iter(float(1_800_000_000 + n * month) for n in range(9))
    ledger = Ledger.open(path, SITE, lambda: next(times))
    ledger.record(make_approval())
    limits: tuple[dict[str, Any], ...] = (
        {},
        {"per_plan": 50.0},
        {"per_plan": 50.0, "per_period": PeriodBudget(epsilon=60.0)},
        {"per_period": PeriodBudget(epsilon=60.0)},
        {"per_period": PeriodBudget(epsilon=60.0, every=Every.QUARTER)},
        {"per_plan": 50.0, "per_period": PeriodBudget(epsilon=60.0, every=Every.YEAR)},
    )
    for step, limit in enumerate(limits):
        budget = Budget(epsilon=100.0, delta=DELTA, **limit)
        ledger.charge(replace(CHARGE, step=step), budget)
    ledger.close()
    assert not _broken(path)


@pytest.mark.parametrize("delta", [1e-9, 1e-11, 1e-12, 1e-13, 1e-15])
@pytest.mark.parametrize("noise_multiplier", [1.0, 5.0])
def test_an_honest_ledger_is_in_order_at_a_delta_that_float64_hardly_holds(
    tmp_path: Path, delta: float, noise_multiplier: float
) -> None:
    charge = replace(CHARGE, delta=delta, noise_multiplier=noise_multiplier, releases=250)
    _write(tmp_path / "ledger.sqlite", [replace(charge, step=step) for step in range(3)])
    assert not _broken(tmp_path / "ledger.sqlite")
    _rewrite(tmp_path / "ledger.sqlite", lambda _, charge, after: (charge, after * 0.7))
    assert _broken(tmp_path / "ledger.sqlite")


NO_VALUES: Mapping[str, tuple[object, ...]] = {
    "seq": (0, -1, 2**60, True, "1", 1.0, None),
    "time": ("nan", "inf", "-0x1.0p+0", "0x1.0p+300", "1e9", 1800000000, ""),
    "previous_hash": ("", "f" * 63, "F" * 64, "g" * 64, 0),
    **dict.fromkeys(("run", "session"), ("", "f" * 31, "f" * 33, "F" * 32, "2026", "\x1b[8m", 7)),
    **dict.fromkeys(("dataset", "plan"), ("", "*", "2026", "f" * 63, "F" * 64, "f" * 65, None)),
    "round": (-1, 2**40, True, "0", 0.0),
    "step": (-1, 2**40, 10**400),
    "attempt": (-1, 2**40, []),
    "unit": ("", "x" * 201, None),
    "mode": ("", "none", "unsafe_none", "Local"),
    "mechanism": ("", "none", "gaussian", "seeded"),
    "sampling_rate": ("0x0.0p+0", "-0x1.0p-1", "0x1.8p+0", "nan", "0x0.0000000000001p-1022", 0.5),
    "noise_multiplier": ("0x0.0p+0", "-0x1.0p+0", "inf", "nan", "0x1.0p+900"),
    "clipping_norm": ("0x0.0p+0", "-0x1.0p+0", "inf", "nan"),
    "releases": (0, -1, 2**41, 10**400, True),
    "delta": (
        "0x0.0p+0",
        "0x1.0p+0",
        "nan",
        "0x0.0000000000001p-1022",
        (0.999).hex(),
        (0.011).hex(),
    ),
    "scope": ("", "plan", "dataset"),
    "period": ("2026", "x", 0),
    "epsilon": ("nan", "-0x1.0p+0", 1.0, ""),
    "limit": ("nan", "0x0.0p+0", "-inf"),
    "kind": ("grant", "", "__class__"),
    "format": ("hortus/v1/ledger", "hortus/v2/ledger", 3),
    "account": ("", "*", "f" * 63, "F" * 64, 0),
}


@pytest.mark.parametrize("field", NO_VALUES)
def test_a_value_that_a_field_cannot_have_is_found_where_it_is_read(path: Path, field: str) -> None:
    """Signed by the site itself, in its place in the chain: no later check would stumble over it."""
    rows = _evidence(path).rows
    for wrong in NO_VALUES[field]:
        content = canonical_json(_flip(json.loads(rows[2][1]), field, wrong)).decode()  # type: ignore[arg-type]
        row = _row(content, rows[2], SITE)
        finding = audit(replace(_evidence(path), rows=(*rows[:2], row)), ROSTER).first_broken
        assert finding is not None
        assert (finding.entry, "cannot be read" in finding.problem) == (3, True), wrong


def test_every_field_has_values_that_it_cannot_have(path: Path) -> None:
    assert set(NO_VALUES) == _leaves(json.loads(_read(path)[2].content))


@pytest.mark.parametrize("period", ["", "26", "2026-13", "2026-Q5", "2026-1", "2026\n", "2026-00"])
def test_a_period_that_no_calendar_has_is_no_level(period: str) -> None:
    with pytest.raises(ValueError, match="period"):
        Level(Scope.PERIOD, period, 1.0, 2.0)


def test_a_plan_that_was_exchanged_or_not_kept_to_is_found(plan: Plan, tmp_path: Path) -> None:
    contract = plan.contract(model_digest="a" * 64, noise_multiplier=5.0)
    kept = replace(
        CHARGE,
        plan=contract.digest(),
        sampling_rate=0.5,
        noise_multiplier=sum(noise_range(contract)) / 2,
        releases=1,
        clipping_norm=contract.privacy.clipping_norm,
    )
    text = canonical_json(contract.model_dump(mode="json")).decode()
    changed = text.replace('"rounds":2', '"rounds":3')
    for charge, stored, problem in (
        (kept, text, ""),
        (kept, changed, "has another hash"),
        (replace(kept, clipping_norm=9.0), text, "differ from its plan"),
        (replace(kept, releases=2), text, "number of releases differ from its plan"),
        (replace(kept, noise_multiplier=4.99), text, "4.99, but its plan's is 5"),
        (replace(kept, noise_multiplier=5.01), text, "5.01, but its plan's is 5"),
        (replace(kept, round=2), text, "no round 3"),
        (replace(kept, step=9), text, "no round 1 with the session's step 9"),
        (replace(kept, unit="patient"), text, "unit or number of releases"),
        (replace(kept, mode="local"), text, "noise mode"),
    ):
        path = tmp_path / f"{problem[:12]}.sqlite"
        _write(path, [charge], approval(contract, DELTA, "Ada"))
        evidence = _evidence(path, {contract.digest(): stored})
        unseen = "the server has countersigned none of its entries"
        found = [f.problem for f in audit(evidence, ROSTER).findings if f.problem != unseen]
        assert any(problem in one for one in found) if problem else found == [], (problem, found)


CONSENTS = {
    "nobody approved it": ([], "nobody had approved its plan"),
    "another plan": (["f" * 64], "nobody had approved its plan"),
    "withdrawn": (["e" * 64, "withdrawn"], "its plan was withdrawn by entry 2"),
    "withdrawn twice": (["e" * 64, "withdrawn", "e" * 64, "withdrawn"], "withdrawn by entry 4"),
    "admitted, withdrawn": (["admitted", "withdrawn"], "its plan was withdrawn by entry 2"),
    "admitted after": (["e" * 64, "withdrawn", "admitted"], "auto_approve allowed a plan that was"),
    "approved": (["e" * 64], ""),
    "approved again": (["e" * 64, "withdrawn", "e" * 64], ""),
    "admitted": (["admitted"], ""),
    "admitted, then approved": (["admitted", "e" * 64], ""),
}


@pytest.mark.parametrize("case", CONSENTS)
def test_a_charge_that_nobody_had_allowed_is_found(tmp_path: Path, case: str) -> None:
    """Chained and signed by the site itself, and countersigned by nobody."""
    said, problem = CONSENTS[case]
    bodies: list[Body] = [
        Withdrawn("e" * 64, "study", "Bob", "a doubt")
        if one == "withdrawn"
        else Admitted("e" * 64, "study", "record", 1.0, DELTA)
        if one == "admitted"
        else make_approval(one)
        for one in said
    ]
    charge, cost = replace(CHARGE, plan="e" * 64), epsilon({GaussianEvent(0.1, 2.0): 4}, DELTA)
    level = Level(Scope.LIFETIME, "", cost, math.inf)
    bodies.append(Charged(charge, CHARGE.dataset, (), (level,)))
    entries: list[Entry] = []
    for body in bodies:
        previous = entries[-1].hash if entries else GENESIS
        entries.append(Entry.make(len(entries) + 1, 1.8e9, body, previous, SITE))
    path = tmp_path / "ledger.sqlite"
    _write(path, [])
    _store(path, entries)
    found = _audit(path).first_broken
    assert (problem in found.problem) if found else not problem


def test_a_bundle_is_the_same_evidence_in_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    evidence = _evidence(mixed, {"a" * 64: "{}"})
    export(evidence, tmp_path / "one.zip")
    export(evidence, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert audit(load(tmp_path / "one.zip"), ROSTER) == audit(evidence, ROSTER)


def test_a_bundle_holds_what_an_operator_writes_whatever_it_is(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite", SITE, lambda: 1.8e9)
    ledger.record(Granted("*", 1.0, "one\u2028two\x85three\x0bfour\nfive"))
    ledger.close()
    evidence = _evidence(tmp_path / "ledger.sqlite")
    export(evidence, tmp_path / "bundle")
    assert load(tmp_path / "bundle") == evidence


def test_a_damaged_bundle_is_refused_or_what_is_damaged_is_found(
    mixed: Path, tmp_path: Path
) -> None:
    """A byte flipped anywhere: in the directory, in a compressed member, in a checksum."""
    path = tmp_path / "bundle"
    export(_evidence(mixed), path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with suppress(UsageError):
            assert load(path) == _evidence(mixed) or _first_entry(load(path)) is not None


def test_a_plan_that_nobody_can_read_to_its_end_is_a_finding(path: Path) -> None:
    evidence = _evidence(path, {CHARGE.plan: "[" * 100_000})
    found = audit(evidence, ROSTER).first_broken
    assert found is not None
    assert "has another hash" in found.problem


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all"])
def test_a_file_that_is_no_bundle_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evidence.zip"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not an evidence bundle"):
        load(path)


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(HortusError, match="cannot be read"):
        _audit(tmp_path / "ledger.sqlite")
