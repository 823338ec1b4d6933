"""What a run's database tells about rounds and departures, apart from what is needed to train on."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from hortus.privacy.audit.reconcile import AttemptRecord, ServerRecord
from hortus.protocol.plan import Contract
from hortus.runtime.databases import DAMAGED, read_snapshot
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.metric import Metric, Metrics, best, check_metrics, primary, without_breakdowns

_Value = TypeVar("_Value")
Count = Annotated[int, Field(ge=0)]
Cost = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One finished round, as the server saw it.

    Attributes:
        round: From 0.
        sites: Names in the round's last sum.
        attempts: Secure sums tried; more than `sums` when one was re-formed, or begun again after a crash.
        sums: Secure sums made.
        epsilon: ε that the server claims for a site that was in every attempt at a sum begun by
            then, those that came to no end included; None without privacy.
        metrics: On the server's public evaluation records; empty without any.
        noise_to_signal: How much larger the noise of the round's sums is than their signal, as far as the sums
            tell; None without noise in them.
    """

    round: Count
    sites: tuple[str, ...]
    attempts: Count
    sums: Count
    epsilon: Cost | None
    metrics: Metrics = ()
    noise_to_signal: Cost | None = None

    def __post_init__(self) -> None:
        """Refuses metrics that do not belong together."""
        check_metrics(self.metrics)

    @property
    def primary(self) -> Metric | None:
        """What the run is judged by; None without any metrics."""
        return primary(self.metrics)

    @property
    def has_breakdowns(self) -> bool:
        """Whether a metric says what it is for each part of the records."""
        return any(metric.breakdown for metric in self.metrics)

    def without_breakdowns(self) -> "RoundRecord":
        """Returns the round with what was measured of all records together alone."""
        return replace(self, metrics=without_breakdowns(self.metrics))


@dataclass(frozen=True, slots=True)
class Departure:
    """A site that did not take part from some round on, with its reason."""

    round: int
    site: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRows:
    """What a run's database holds, in order, but for each attempt at a sum.

    Attributes:
        run: The run's id.
        rounds: Finished rounds.
        checkpoints: SHA-256 of each round's checkpoint, also of those that are not kept.
        departures: Sites that left or refused.
    """

    run: str
    rounds: tuple[RoundRecord, ...]
    checkpoints: Mapping[int, str]
    departures: tuple[Departure, ...]


def best_round(rounds: Iterable[RoundRecord]) -> RoundRecord | None:
    """Returns the round whose primary metric is best, the last of several; None where none was measured."""
    return best(rounds, lambda record: record.metrics)


def read_contract(directory: Path) -> Contract:
    """Reads what is trained in a run's folder.

    Raises:
        UsageError: There is no run in it.
        HortusError: It is damaged.
    """
    path = directory / "contract.json"
    try:
        return Contract.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        runs = sorted(str(found.parent) for found in directory.glob("*/contract.json"))
        raise UsageError(
            "this folder has no run",
            where=str(directory),
            remedy=f"Did you mean {' or '.join(runs)}?"
            if runs
            else "Name the folder that `hortus server` or `hortus simulate` wrote the run to.",
        ) from error
    except ValidationError as error:
        raise HortusError(
            f"this is not a contract of this version: {error.errors()[0]['msg']}", where=str(path)
        ) from error


def read_run(directory: Path) -> RunRows:
    """Reads a run beside the server that writes it, and changes nothing.

    Raises:
        HortusError: There is no run here, or it cannot be read.
    """
    return _read(directory, rows_of)


def read_record(directory: Path) -> ServerRecord:
    """Reads a run's sessions and attempts at sums likewise: who audits needs them all, and nobody else.

    Raises:
        HortusError: There is no run here, or it cannot be read.
    """
    return _read(directory, _read_attempts)


def _read(directory: Path, read: Callable[[sqlite3.Connection], _Value]) -> _Value:
    database = directory / "run.sqlite"
    try:
        return read_snapshot(database, read)
    except (*DAMAGED, OSError, TypeError) as error:
        raise HortusError(f"the run cannot be read: {error}", where=str(database)) from error


def rows_of(connection: sqlite3.Connection) -> RunRows:
    """Reads a run from its open database.

    Raises:
        HortusError: A row is not as `RunStore` writes it.
    """
    (run,) = connection.execute("SELECT id FROM run").fetchone()
    rounds = connection.execute(
        "SELECT record, round, checkpoint FROM rounds ORDER BY round"
    ).fetchall()
    left = connection.execute("SELECT round, site, reason FROM departures ORDER BY id").fetchall()
    return RunRows(
        run,
        tuple(_decode(_ROUND, text) for text, _, _ in rounds),
        dict(_checked(_CHECKPOINT, row) for _, *row in rounds),
        tuple(Departure(*_checked(_DEPARTURE, row)) for row in left),
    )


def _read_attempts(connection: sqlite3.Connection) -> ServerRecord:
    run, plan = connection.execute("SELECT id, contract FROM run").fetchone()
    cohorts = connection.execute("SELECT session, cohort FROM sessions")
    attempts = connection.execute(
        "SELECT session, step, attempt, sites, heard, complete FROM attempts ORDER BY rowid"
    )
    return ServerRecord(
        run,
        plan,
        {session: _decode(_SITES, cohort) for session, cohort in cohorts},
        tuple(
            AttemptRecord(
                *_checked(_PLACE, place),
                _decode(_SITES, sites),
                _decode(_SITES, heard),
                complete == 1,
            )
            for *place, sites, heard, complete in attempts
        ),
    )


_ROUND = TypeAdapter(RoundRecord)
_DEPARTURE = TypeAdapter(tuple[Count, str, str])
_CHECKPOINT = TypeAdapter(tuple[Count, str])
_PLACE = TypeAdapter(tuple[str, Count, Count])
_SITES = TypeAdapter(tuple[str, ...])


def _decode(kind: TypeAdapter[_Value], text: str) -> _Value:
    """Reads a value that a row has as JSON."""
    with _explained():
        return kind.validate_json(text, strict=True)


def _checked(kind: TypeAdapter[_Value], row: Iterable[object]) -> _Value:
    """Reads a row: a damaged page may hold values of other kinds than the table's columns."""
    with _explained():
        return kind.validate_python(tuple(row), strict=True)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise HortusError(
            f"the run's database is damaged: {error.errors()[0]['msg']}", where="run.sqlite"
        ) from error
