"""A run's durable state: what is needed to resume it, and to tell afterwards what happened.

    RUN_DIR/contract.json      the binding plan
    RUN_DIR/plan.yaml          the plan, its labels and paths resolved
    RUN_DIR/run.sqlite         rounds, refusals; the truth about how far the run has come
    RUN_DIR/checkpoints/       adapter and optimiser after each of the last two rounds and the best one,
                               and after the last sum of a round that is not finished
    RUN_DIR/metrics.jsonl      the rounds once more, from 1, for other tools

A checkpoint is complete on disk before the row that has its SHA-256, so a run killed at any moment resumes
after a whole sum, and never from a checkpoint that has changed since: a kill costs one attempt at a sum.
"""

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch

from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.protocol.plan import Contract
from hortus.runtime.databases import DAMAGED, remedy_for, write_sqlite
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.faults import Fault, reach
from hortus.runtime.files import write_atomic
from hortus.server.run import checkpoints
from hortus.server.run.records import Departure, RoundRecord, RunRows, best_round, rows_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id TEXT NOT NULL, contract TEXT NOT NULL, over INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, record TEXT NOT NULL, checkpoint TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS unfinished (
    round INTEGER NOT NULL, sums INTEGER NOT NULL, checkpoint TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS departures (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, site TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS sessions (session TEXT PRIMARY KEY, cohort TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS attempts (
    session TEXT NOT NULL, step INTEGER NOT NULL, attempt INTEGER NOT NULL,
    sites TEXT NOT NULL, heard TEXT NOT NULL, complete INTEGER NOT NULL,
    PRIMARY KEY (session, step, attempt)
) STRICT;
"""


class RunStore:
    """The state of one run in its folder.

    Args:
        directory: The run's folder; made when it is not there.
        contract: The run's contract; a folder of another contract is refused.

    Raises:
        UsageError: The folder belongs to another contract.
        HortusError: The database cannot be read.
    """

    def __init__(self, directory: Path, contract: Contract) -> None:
        self.directory = directory
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        checkpoints.forget_partial(directory)
        self._database = directory / "run.sqlite"
        with self._reading() as connection, connection:
            connection.executescript(_SCHEMA)
            row = connection.execute("SELECT id, contract FROM run").fetchone()
            if row is None:
                row = (secrets.token_hex(16), contract.digest())
                connection.execute("INSERT INTO run (id, contract) VALUES (?, ?)", row)
        self.run, existing = row
        if existing != contract.digest():
            raise UsageError(
                "this folder holds a run of another plan",
                where=str(directory),
                remedy="Choose another folder with --out, or remove this one to start again.",
            )
        write_atomic(directory / "contract.json", contract.model_dump_json(indent=2).encode())
        if self.next_round:
            self._export()  # a crash may have come between the last round and this

    @property
    def next_round(self) -> int:
        """The first round that has not been finished."""
        rounds = self._rows.rounds
        return rounds[-1].round + 1 if rounds else 0

    @property
    def next_sum(self) -> int:
        """The first sum of that round that has not been made, from 0."""
        point = self._unfinished()
        return 0 if point is None else point[1]

    @property
    def rounds(self) -> list[RoundRecord]:
        """All finished rounds, in order."""
        return list(self._rows.rounds)

    @property
    def tried(self) -> tuple[int, int]:
        """Sums and attempts at them that were begun, those that came to no end included.

        A sum that is begun again in another session is another one.
        """
        with self._reading() as connection:
            (sums,) = connection.execute(
                "SELECT COUNT(*) FROM (SELECT DISTINCT session, step FROM attempts)"
            ).fetchone()
            (attempts,) = connection.execute("SELECT COUNT(*) FROM attempts").fetchone()
        return int(sums), int(attempts)

    @property
    def departures(self) -> list[Departure]:
        """The sites that left or refused, when and why."""
        return list(self._rows.departures)

    @property
    def _rows(self) -> RunRows:
        with self._reading() as connection:
            return rows_of(connection)

    def commit(self, record: RoundRecord, state: Mapping[str, torch.Tensor]) -> None:
        """Makes a round durable: checkpoint first, then the row that names it."""
        path = checkpoints.of_round(self.directory, record.round)
        digest = self._save(path, state)
        rounds = [*self.rounds, record]
        kept = _kept(rounds)
        outdated = [old for old in rounds if old.round not in kept and old.has_breakdowns]
        with self._writing(f"round {record.round + 1}") as connection:
            row = (record.round, _as_json(record), digest)
            connection.execute("INSERT INTO rounds VALUES (?, ?, ?)", row)
            connection.execute("DELETE FROM unfinished")
            for old in outdated:
                shorter = (_as_json(old.without_breakdowns()), old.round)
                connection.execute("UPDATE rounds SET record = ? WHERE round = ?", shorter)
            reach(Fault.ROUND_BEFORE_COMMIT)
        reach(Fault.ROUND_DURABLE)
        self._export()
        reach(Fault.ROUND_AFTER_METRICS)
        self._forget_checkpoints()
        reach(Fault.ROUND_AFTER_FORGETTING)

    def commit_sums(self, number: int, sums: int, state: Mapping[str, torch.Tensor]) -> None:
        """Makes this many sums of the next round durable, as `commit` does a whole one."""
        path = checkpoints.of_sums(self.directory, number, sums)
        digest = self._save(path, state)
        with self._writing(f"sum {sums} of round {number + 1}") as connection:
            connection.execute("DELETE FROM unfinished")
            connection.execute("INSERT INTO unfinished VALUES (?, ?, ?)", (number, sums, digest))
        self._forget_checkpoints()

    def _save(self, path: Path, state: Mapping[str, torch.Tensor]) -> str:
        """Writes a checkpoint; returns its SHA-256."""
        encoded = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
        reach(Fault.ROUND_BEFORE_CHECKPOINT)
        write_atomic(path, encoded)
        return hashlib.sha256(encoded).hexdigest()

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done, and the sites of the last session were told so."""
        with self._reading() as connection:
            (over,) = connection.execute("SELECT over FROM run").fetchone()
        return bool(over)

    def note_over(self) -> None:
        """Records that nothing is left to do."""
        with self._writing("the end of the run") as connection:
            connection.execute("UPDATE run SET over = 1")

    def note_session(self, session: str, cohort: tuple[str, ...]) -> None:
        """Records a session before a site hears of it: its charges are then accounted for."""
        with self._writing("a session") as connection:
            connection.execute("INSERT INTO sessions VALUES (?, ?)", (session, json.dumps(cohort)))

    def note_attempt(self, record: AttemptRecord) -> None:
        """Records an attempt at a sum before any site hears of it, and again when it is settled."""
        sites, heard = json.dumps(record.sites), json.dumps(record.heard)
        place = (record.session, record.step, record.attempt)
        with self._writing("an attempt at a sum") as connection:
            connection.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
                (*place, sites, heard, record.complete),
            )

    def note_departure(self, departure: Departure) -> None:
        """Records that a site left or refused."""
        if departure in self.departures:
            return
        with self._writing("a departure") as connection:
            connection.execute(
                "INSERT INTO departures (round, site, reason) VALUES (?, ?, ?)",
                (departure.round, departure.site, departure.reason),
            )

    def latest_state(self) -> dict[str, torch.Tensor] | None:
        """Returns the tensors after the last sum that is durable; None before the first.

        Raises:
            HortusError: The checkpoint is missing, or is not the one that was written.
        """
        if (point := self._unfinished()) is not None:
            number, sums, digest = point
            path = checkpoints.of_sums(self.directory, number, sums)
            return safetensors.torch.load(checkpoints.read(path, digest))
        if not (saved := self._rows.checkpoints):
            return None
        last = max(saved)
        path = checkpoints.of_round(self.directory, last)
        return safetensors.torch.load(checkpoints.read(path, saved[last]))

    def _unfinished(self) -> tuple[int, int, str] | None:
        """The round that is under way, how many of its sums are durable, and their checkpoint's hash."""
        with self._reading() as connection:
            row = connection.execute("SELECT round, sums, checkpoint FROM unfinished").fetchone()
        return None if row is None else (row[0], row[1], row[2])

    def _export(self) -> None:
        records = (record.without_breakdowns() for record in self.rounds)
        lines = "".join(_as_json(replace(one, round=one.round + 1)) + "\n" for one in records)
        write_atomic(self.directory / "metrics.jsonl", lines.encode())

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(write_sqlite(self._database)) as connection:
                yield connection
        except DAMAGED as error:
            raise HortusError(
                f"the run cannot be read: {error}",
                where=str(self._database),
                remedy=remedy_for(error, self._database),
            ) from error

    @contextmanager
    def _writing(self, what: str) -> Iterator[sqlite3.Connection]:
        """Lends the database for one transaction, which is on disk when the block is left."""
        try:
            with closing(write_sqlite(self._database)) as connection, connection:
                yield connection
        except DAMAGED as error:
            raise HortusError(
                f"{what} cannot be written: {error}",
                where=str(self._database),
                remedy=remedy_for(error, self._database),
            ) from error

    def _forget_checkpoints(self) -> None:
        paths = {checkpoints.of_round(self.directory, number) for number in _kept(self.rounds)}
        if (point := self._unfinished()) is not None:
            paths.add(checkpoints.of_sums(self.directory, *point[:2]))
        checkpoints.forget_others(self.directory, paths)


def _kept(rounds: Sequence[RoundRecord]) -> set[int]:
    """Returns the rounds of which all is kept: the last two and the best."""
    best = best_round(rounds)
    return {record.round for record in (*rounds[-2:], *([] if best is None else [best]))}


def _as_json(record: RoundRecord) -> str:
    return json.dumps(asdict(record))
