"""A run's durable state: what is needed to resume it, and to tell afterwards what happened.

    RUN_DIR/contract.json      the binding plan
    RUN_DIR/plan.yaml          the plan, its labels and paths resolved
    RUN_DIR/run.sqlite         rounds, refusals; the truth about how far the run has come
    RUN_DIR/checkpoints/       adapter and optimiser after each of the last two rounds
    RUN_DIR/metrics.jsonl      the rounds once more, from 1, for other tools

A checkpoint is complete on disk before the row that has its SHA-256, so a run killed at any moment goes
on from a whole round, and never from a checkpoint that has changed since.
"""

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from hortus.privacy.omissions import AttemptRecord
from hortus.protocol.databases import DAMAGED, write_sqlite
from hortus.protocol.errors import HortusError, UsageError
from hortus.protocol.faults import Fault, reach
from hortus.protocol.files import write_atomic
from hortus.protocol.plan import Contract
from hortus.protocol.surroundings import out_of_files
from hortus.server.run_records import Departure, RoundRecord, decode_round

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (id TEXT NOT NULL, contract TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY, record TEXT NOT NULL, checkpoint TEXT NOT NULL
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
        for unfinished in (directory / "checkpoints").glob(".round-*"):
            unfinished.unlink()  # a crash came while it was written
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
                remedy="Choose another folder with --out, or remove this one to start anew.",
            )
        write_atomic(directory / "contract.json", contract.model_dump_json(indent=2).encode())
        if self.next_round:
            self._export()  # a crash may have come between the last round and this

    @property
    def next_round(self) -> int:
        """The first round that has not been finished."""
        with self._reading() as connection:
            (last,) = connection.execute("SELECT MAX(round) FROM rounds").fetchone()
        return 0 if last is None else int(last) + 1

    @property
    def rounds(self) -> list[RoundRecord]:
        """All finished rounds, in order."""
        with self._reading() as connection:
            rows = connection.execute("SELECT record FROM rounds ORDER BY round").fetchall()
        return [decode_round(text) for (text,) in rows]

    @property
    def sums(self) -> tuple[int, int]:
        """Completed sums and all attempts, those of rounds that were not finished included."""
        with self._reading() as connection:
            row = connection.execute("SELECT SUM(complete), COUNT(*) FROM attempts").fetchone()
        return row[0] or 0, row[1]

    @property
    def departures(self) -> list[Departure]:
        """Who left or refused, when and why."""
        with self._reading() as connection:
            rows = connection.execute("SELECT round, site, reason FROM departures ORDER BY id")
            return [Departure(*row) for row in rows]

    def commit(self, record: RoundRecord, state: Mapping[str, torch.Tensor]) -> None:
        """Makes a round durable: checkpoint first, then the row that names it."""
        encoded = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
        reach(Fault.ROUND_BEFORE_CHECKPOINT)
        write_atomic(self._checkpoint(record.round), encoded)
        with self._writing(f"round {record.round}") as connection:
            row = (record.round, json.dumps(asdict(record)), hashlib.sha256(encoded).hexdigest())
            connection.execute("INSERT INTO rounds VALUES (?, ?, ?)", row)
            reach(Fault.ROUND_BEFORE_COMMIT)
        reach(Fault.ROUND_DURABLE)
        self._export()
        reach(Fault.ROUND_AFTER_METRICS)
        self._forget_checkpoints(before=record.round - 1)
        reach(Fault.ROUND_AFTER_FORGETTING)

    def note_session(self, session: str, cohort: tuple[str, ...]) -> None:
        """Records a session before a site hears of it: its charges are then accounted for."""
        with self._writing("a session") as connection:
            connection.execute("INSERT INTO sessions VALUES (?, ?)", (session, json.dumps(cohort)))

    def note_attempt(self, record: AttemptRecord) -> None:
        """Records an attempt at a sum before the next one starts."""
        sites, heard = json.dumps(record.sites), json.dumps(record.heard)
        place = (record.session, record.step, record.attempt)
        with self._writing("an attempt at a sum") as connection:
            connection.execute(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
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
        """Returns the tensors of the last finished round; None before the first.

        Raises:
            HortusError: The checkpoint is missing, or is not the one that was written.
        """
        with self._reading() as connection:
            row = connection.execute(
                "SELECT round, checkpoint FROM rounds ORDER BY round DESC LIMIT 1"
            ).fetchone()
        if row is None:
            return None
        path = self._checkpoint(row[0])
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise HortusError(f"it cannot be read: {error.strerror}", where=str(path)) from error
        if hashlib.sha256(encoded).hexdigest() != row[1]:
            raise HortusError(
                "the checkpoint is damaged: it is not the one that was written",
                where=str(path),
                remedy="Restore the run's folder from a backup, or start anew with another --out.",
            )
        return safetensors.torch.load(encoded)

    def _checkpoint(self, number: int) -> Path:
        return self.directory / "checkpoints" / f"round-{number:05d}.safetensors"

    def _export(self) -> None:
        told = (asdict(record) | {"round": record.round + 1} for record in self.rounds)
        lines = "".join(json.dumps(one) + "\n" for one in told)
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
                remedy=out_of_files(),
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
                remedy=out_of_files()
                or "Is the disk full? Finished rounds are kept; the same command resumes.",
            ) from error

    def _forget_checkpoints(self, *, before: int) -> None:
        for path in (self.directory / "checkpoints").glob("round-*.safetensors"):
            if int(path.stem.removeprefix("round-")) < before:
                path.unlink()
