"""Ledgers, evidence and the records of runs."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from fuzzing.mutation import of_bytes, of_gzip, of_json, of_lines, of_sqlite
from fuzzing.parser import Documented, Parser, must
from fuzzing.setting import Maker, Setting
from helpers.charges import make_charge
from helpers.made_runs import classified

from hortus.client.consent.approval import approval
from hortus.client.operator.accounts import account_lines
from hortus.parties.folders import SiteFiles
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import Evidence, Row, collect, export, load
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.ledger.decisions import (
    EVERY_DATASET,
    Admitted,
    Declined,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import Countersignature
from hortus.protocol.policy import Budget, PeriodBudget
from hortus.runtime.canonical import canonical_json
from hortus.runtime.metric import Better
from hortus.server.run.records import Departure, RoundRecord, read_contract, read_record, read_run
from hortus.server.run.store import RunStore
from hortus.strategies.server_state import ServerState

_BUDGET = Budget(epsilon=8, delta=1e-5, per_plan=4, per_period=PeriodBudget(epsilon=6))


def _honest_books(setting: Setting) -> tuple[SiteFiles, bytes]:
    """Fills the ledger of a site with an entry of every kind, once.

    Returns:
        A folder of that site, whose ledger may be overwritten; and the file.
    """
    files, kept = SiteFiles(setting.folder / "books"), setting.folder / "honest.sqlite"
    if kept.exists():
        return files, _put(files.ledger, kept.read_bytes())
    shutil.copytree(setting.world.consortium.site("dogwood").directory, files.directory)
    files.contracts.mkdir(exist_ok=True)
    plan = setting.contract.digest()
    encoded = canonical_json(setting.contract.model_dump(mode="json"))
    (files.contracts / f"{plan}.json").write_bytes(encoded)
    ticks = iter(range(1_700_000_000, 1_800_000_000, 1000))
    with closing(_opened(files, setting, lambda: float(next(ticks)))) as ledger:
        ledger.record(approval(setting.contract, 1e-5, "Ada"))
        ledger.admit(Admitted("a" * 64, "other", "record", 2.0, 1e-5))
        ledger.record(Withdrawn("a" * 64, "other", "Bob", "a doubt"))
        for step in range(3):
            charge = make_charge(step=step, plan=plan)
            ledger.commit(ledger.reserve(charge, _BUDGET))
            ledger.mark_sent(*charge.key)
        ledger.record(Granted(EVERY_DATASET, 1.5, "a board's decision"))
        ledger.record(Frozen("d" * 64, "a complaint"))
        ledger.record(Unfrozen("d" * 64, "it was withdrawn"))
        ledger.decline(Declined(plan, "0" * 32, 1, "", "its budget is spent"))
        ledger.reserve(make_charge(step=9, plan=plan), _BUDGET)
        head = ledger.signed_head()
        assert head is not None
        ledger.keep(Countersignature.make(setting.world.server, head, 1.8e9))
    kept.write_bytes(files.ledger.read_bytes())
    return files, kept.read_bytes()


def _opened(
    files: SiteFiles, setting: Setting, clock: Callable[[], float] = lambda: 1.7e9
) -> Ledger:
    return Ledger.open(files.ledger, setting.identity("dogwood"), clock)


def _put(path: Path, data: bytes) -> bytes:
    """Puts a database in place of one that nobody has open."""
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(data)
    return data


def entry(setting: Setting) -> Parser:
    files, _ = _honest_books(setting)
    with closing(_opened(files, setting)) as ledger:
        honest = list(ledger.entries())

    def read(data: bytes) -> None:
        content = data.decode(errors="replace")
        try:
            found = Entry.parse(content, "00" * 32, b"")
        except ValueError as error:
            raise Documented("what `parse` documents") from error
        again = Entry.make(
            found.seq, found.time, found.body, found.previous_hash, setting.identity("ash")
        )
        must(again.content == content, "it is another one when it is encoded again")

    return Parser("ledger entry", tuple(one.content.encode() for one in honest), of_json, read)


def ledger_file(setting: Setting) -> Parser:
    """A damaged or edited ledger opens with a part of its own entries from the first on, or not at all."""
    files, seed = _honest_books(setting)
    with closing(_opened(files, setting)) as ledger:
        honest = [one.content for one in ledger.entries()]

    def read(data: bytes) -> None:
        _put(files.ledger, data)
        with closing(_opened(files, setting)) as ledger:
            found = [one.content for one in ledger.entries()]
            must(found == honest[: len(found)], "entries that the site has not written")
            account_lines(ledger, _BUDGET)
            ledger.last_countersigned()
            ledger.signed_head()
            ledger.shortfall(make_charge(step=20, run="3" * 32, session="4" * 32), _BUDGET)
            ledger.contains(1, "0" * 64)

    return Parser("ledger.sqlite, opened", (seed,), of_sqlite(of_json), read, 0.1)


def _check_audit(shown: Evidence, setting: Setting, honest: tuple[Row, ...]) -> None:
    found = audit(shown, setting.roster)
    is_part = shown.site == "dogwood" and shown.rows == honest[: len(shown.rows)]
    must(found.first_broken is not None or is_part, "a false ledger is found sound")


def ledger_audited(setting: Setting) -> Parser:
    files, seed = _honest_books(setting)
    honest = collect(files, "dogwood").rows

    def read(data: bytes) -> None:
        _put(files.ledger, data)
        _check_audit(collect(files, "dogwood"), setting, honest)

    return Parser("ledger.sqlite, audited", (seed,), of_sqlite(of_json), read, 0.1)


def bundle(setting: Setting) -> Parser:
    files, _ = _honest_books(setting)
    shown = collect(files, "dogwood")
    path, again = setting.folder / "evidence", setting.folder / "again"
    export(shown, path)

    def read(path: Path) -> None:
        found = load(path)
        export(found, again)
        must(load(again) == found, "it is another one when it is written and read again")
        _check_audit(found, setting, shown.rows)

    change = of_gzip(of_lines(of_json))
    return Parser(
        "evidence bundle", (path.read_bytes(),), change, setting.read_with(read, path.name), 0.1
    )


def _made_run(setting: Setting) -> RunStore:
    """A run in a folder of its own: what an earlier parser was given last may lie in its one."""
    store = RunStore(Path(mkdtemp(dir=setting.folder)) / "run", setting.contract)
    server = ServerState(setting.contract, np.zeros(5, np.float32))
    for number in range(2):
        store.note_session(f"{number:032x}", ("ash", "birch"))
        both = ("ash", "birch")
        for attempt, complete in enumerate((False, True)):
            store.note_attempt(
                AttemptRecord(f"{number:032x}", 0, attempt, both, both, complete=complete)
            )
        metrics = classified(0.5, chance=0.25)
        record = RoundRecord(number, ("ash", "birch"), 2, 1, 0.7, metrics)
        store.commit(record, server.state())
        store.note_departure(Departure(number, "cedar", "its budget is spent"))
    return store


def run_database(setting: Setting) -> Parser:
    """The server's record of a run, as `hortus inspect`, the pages and a resumed run read it."""
    path = _made_run(setting).directory / "run.sqlite"

    def read(data: bytes) -> None:
        _put(path, data)
        rows = read_run(path.parent)
        for record in rows.rounds:
            whole = (record.round, record.attempts, record.sums)
            must(all(type(n) is int and n >= 0 for n in whole), "a count that is none")
            must(all(isinstance(site, str) for site in record.sites), "a site that is no name")
            for metric in record.metrics:
                must(isinstance(metric.text, str) and metric.better in Better, "a metric")
        must(all(isinstance(d.site, str) for d in rows.departures), "a site that is no name")
        tried = read_record(path.parent)
        for sites in (
            *tried.sessions.values(),
            *(one.sites for one in tried.attempts),
            *(one.heard for one in tried.attempts),
        ):
            must(all(isinstance(site, str) for site in sites), "a site that is no name")
        store = RunStore(path.parent, setting.contract)
        _ = (store.next_round, store.rounds, store.tried, store.departures, store.latest_state())

    return Parser("run.sqlite", (path.read_bytes(),), of_sqlite(of_json), read, 0.1)


def checkpoint(setting: Setting) -> Parser:
    store = _made_run(setting)
    path = max((store.directory / "checkpoints").iterdir())
    honest = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        state = store.latest_state()
        assert state is not None
        ServerState(setting.contract, np.zeros(5, np.float32)).restore(state)
        must(data == honest, "another checkpoint than the one that was written")

    return Parser("checkpoint", (honest,), of_bytes, read, 0.4)


def contract_of_a_run(setting: Setting) -> Parser:
    store = _made_run(setting)
    path = store.directory / "contract.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_contract(store.directory)

    return Parser("contract.json", (path.read_bytes(),), of_json, read)


BOOKS: tuple[Maker, ...] = (
    entry,
    ledger_file,
    ledger_audited,
    bundle,
    run_database,
    checkpoint,
    contract_of_a_run,
)
