"""A site's ledger: a signed, hash-chained record of every release, which also holds the budget.

A release is charged, and the charge is on disk, before its first byte leaves the site. Entries are
never changed or deleted. Each entry's hash covers the one before it, so a signature vouches for
everything up to its entry. Who can write to the site's disk can still put an older copy in place;
that is noticed by comparing heads with those others have seen (docs/protocol.md).
"""

import hashlib
import hmac
import math
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from hortus.privacy.accounting import GaussianEvent, epsilon
from hortus.protocol.canonical import digest
from hortus.protocol.errors import HortusError, Refused, UsageError
from hortus.protocol.files import sync_directory
from hortus.protocol.identity import SiteIdentity, is_signed
from hortus.protocol.plan import Noise

SIGNATURE_CONTEXT = "ledger entry"
GENESIS = "0" * 64

# Another process of this site may be computing an ε inside its transaction.
_BUSY_SECONDS = 120.0

_SCHEMA = """
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    run TEXT NOT NULL,
    session TEXT NOT NULL,
    round INTEGER NOT NULL,
    step INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    dataset TEXT NOT NULL,
    unit TEXT NOT NULL,
    mode TEXT NOT NULL,
    mechanism TEXT NOT NULL,
    sampling_rate REAL NOT NULL,
    noise_multiplier REAL NOT NULL,
    clipping_norm REAL NOT NULL,
    releases INTEGER NOT NULL,
    delta REAL NOT NULL,
    plan TEXT NOT NULL,
    epsilon_after REAL NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    signature BLOB NOT NULL
) STRICT;
CREATE INDEX entries_of_dataset ON entries (dataset, mode, sampling_rate, noise_multiplier, releases);
CREATE TABLE uses (
    session TEXT NOT NULL,
    step INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (session, step, attempt)
) STRICT;
CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger entry is never changed'); END;
CREATE TRIGGER entries_remain BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger entry is never deleted'); END;
CREATE TRIGGER uses_stay BEFORE UPDATE ON uses
    BEGIN SELECT RAISE(ABORT, 'a use is never changed'); END;
CREATE TRIGGER uses_remain BEFORE DELETE ON uses
    BEGIN SELECT RAISE(ABORT, 'a use is never deleted'); END;
PRAGMA user_version = 1;
"""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Charge:
    """What a site is about to release.

    Attributes:
        run: The run, hexadecimal.
        session: The session, hexadecimal.
        round: Round of the run.
        step: Secure sum of the session.
        attempt: Attempt at it.
        dataset: Fingerprint of the records (`dataset_fingerprint`).
        unit: The privacy unit: neighbouring datasets differ by one of it.
        mode: A value of `protocol.plan.Noise`.
        mechanism: What was added to the sum.
        sampling_rate: Poisson sampling rate q of a step.
        noise_multiplier: Standard deviation of the noise that is counted on, over sensitivity.
        clipping_norm: L2 bound C of one unit's contribution.
        releases: Compositions of the mechanism that this charge covers.
        delta: The δ that ε after it is computed at.
        plan: Hash of the contract.
    """

    run: str
    session: str
    round: int
    step: int
    attempt: int
    dataset: str
    unit: str
    mode: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    clipping_norm: float
    releases: int
    delta: float
    plan: str

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "noise_multiplier", "clipping_norm", "delta"):
            # An integer would come back from the database as a float, with another hash.
            object.__setattr__(self, name, float(getattr(self, name)))
        Noise(self.mode)
        if self.is_private and not (0 < self.sampling_rate <= 1 and self.noise_multiplier > 0):
            raise ValueError("a private release has 0 < q ≤ 1 and noise")
        numbers = (self.sampling_rate, self.noise_multiplier, self.clipping_norm)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("q, σ and C are finite and not negative")
        if min(self.round, self.step, self.attempt) < 0 or self.releases < 1:
            raise ValueError("rounds, steps and attempts count from 0, releases from 1")
        if not 0 < self.delta < 1:
            raise ValueError("δ lies between 0 and 1")

    @property
    def is_private(self) -> bool:
        """Whether ε after it can be finite."""
        return self.mode != Noise.UNSAFE_NONE

    @property
    def event(self) -> GaussianEvent:
        """What one of its releases is to an accountant."""
        return GaussianEvent(self.sampling_rate, self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class Entry:
    """A charge as the ledger holds it.

    Attributes:
        seq: Number, from 1.
        time: Seconds since the epoch.
        charge: What was charged.
        epsilon_after: ε of the dataset with this charge, at its δ; infinite without privacy.
        previous_hash: Hash of the entry before; `GENESIS` for the first.
        hash: SHA-256 of everything above, hexadecimal.
        signature: The site's Ed25519 signature of the hash.
    """

    seq: int
    time: float
    charge: Charge
    epsilon_after: float
    previous_hash: str
    hash: str
    signature: bytes


def entry_hash(
    seq: int, time: float, charge: Charge, epsilon_after: float, previous_hash: str
) -> str:
    """Returns the hash of an entry; floats go in exactly, as `float.hex()`."""
    content = asdict(charge) | {
        "format": "hortus/v1/ledger",
        "seq": seq,
        "time": float(time),
        "epsilon_after": float(epsilon_after),
        "previous_hash": previous_hash,
    }
    return digest({k: v.hex() if isinstance(v, float) else v for k, v in content.items()})


def is_entry_signed(entry: Entry, public_key: bytes) -> bool:
    """Returns whether the raw Ed25519 key signed the entry's hash."""
    return is_signed(public_key, SIGNATURE_CONTEXT, bytes.fromhex(entry.hash), entry.signature)


def dataset_fingerprint(key: bytes, records: Iterable[bytes]) -> str:
    """Identifies a dataset by its records, in whatever order and under whatever file name.

    Args:
        key: A secret of the site: without it, nobody can test whether a guessed dataset is this one.
        records: A canonical encoding of each record.

    Returns:
        HMAC-SHA256, 64 hexadecimal digits.
    """
    digests = sorted(hashlib.sha256(record).digest() for record in records)
    return hmac.new(key, b"hortus/v1/dataset\x00" + b"".join(digests), hashlib.sha256).hexdigest()


class Ledger:
    """One site's ledger; `open` it. Threads and processes may share the file."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: SiteIdentity,
        clock: Callable[[], float],
    ) -> None:
        """Use `open`."""
        self._path = path
        self._connection = connection
        self._identity = identity
        self._clock = clock
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path, identity: SiteIdentity, clock: Callable[[], float]) -> Self:
        """Opens a ledger, or starts one, and checks that its chain is whole and this site's.

        Args:
            path: The SQLite file; mode 0600 if it is new.
            identity: Signs entries.
            clock: Seconds since the epoch.

        Raises:
            HortusError: The file is damaged, was altered, or is another site's.
        """
        with explained(path):
            _create_private(path)
            connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        ledger = cls(path, connection, identity, clock)
        try:
            ledger._prepare()
            ledger._verify()
        except BaseException:
            connection.close()
            raise
        return ledger

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def charge(self, charge: Charge, budget_epsilon: float, budget_delta: float) -> Entry:
        """Charges a release; when this returns, the entry is on disk.

        Args:
            charge: The release.
            budget_epsilon: Largest ε that the dataset may reach.
            budget_delta: The δ that ε is computed at: the charge's.

        Raises:
            Refused: The budget does not cover it, it protects another unit than earlier releases, or
                this attempt was charged or used before.
            HortusError: The file cannot be written.
        """
        if charge.delta != budget_delta:
            raise UsageError(f"the charge's δ is {charge.delta}, the budget's {budget_delta}")
        with self._transaction():
            now = self._clock()
            self._insert_use(charge.session, charge.step, charge.attempt, now)
            self.check_unit(charge.dataset, charge.unit)
            spent = self.spent(charge.dataset, charge.delta)
            after = self._epsilon_after(charge, spent)
            if after > budget_epsilon:
                raise _exhausted(charge, spent, after, budget_epsilon)
            head, previous_hash = self.head()
            hash_ = entry_hash(head + 1, now, charge, after, previous_hash)
            signature = self._identity.sign(SIGNATURE_CONTEXT, bytes.fromhex(hash_))
            entry = Entry(head + 1, now, charge, after, previous_hash, hash_, signature)
            self._insert(entry)
        return entry

    def check_unit(self, dataset: str, unit: str) -> None:
        """Checks that everything released from a dataset so far protects the same kind of unit.

        Losses by different units do not compose: a record more or less can change a patient's
        contribution by up to 2C, where a patient's own coming or going is accounted with C.

        Raises:
            Refused: It does not.
        """
        with self._lock, explained(self._path):
            other = self._connection.execute(
                "SELECT unit FROM entries WHERE dataset = ? AND unit != ? LIMIT 1", (dataset, unit)
            ).fetchone()
        if other:
            raise Refused(
                f"dataset {dataset[:16]}… has had releases that protect a {other[0]}: their loss "
                f"cannot be added to one that protects a {unit}",
                where=str(self._path),
                remedy=f"Take part in plans with privacy.unit: {other[0]}.",
            )

    def record_use(self, session: str, step: int, attempt: int) -> None:
        """Notes, on disk, that a vector already charged is sent again under new masks.

        Raises:
            Refused: This attempt was charged or used before.
            HortusError: The file cannot be written.
        """
        with self._transaction():
            self._insert_use(session, step, attempt, self._clock())

    def entries(self) -> Iterator[Entry]:
        """Yields all entries in order."""
        with self._lock, explained(self._path):
            rows = self._connection.execute(SELECT_ENTRIES).fetchall()
        return map(entry_from_row, rows)

    def history(self, dataset: str) -> Mapping[GaussianEvent, int]:
        """Returns how often each event has been released from a dataset.

        Releases without privacy are no such events: `spent` is infinite after one.
        """
        with self._lock, explained(self._path):
            rows = self._connection.execute(
                "SELECT sampling_rate, noise_multiplier, sum(releases) FROM entries "
                "WHERE dataset = ? AND mode != ? GROUP BY sampling_rate, noise_multiplier",
                (dataset, Noise.UNSAFE_NONE.value),
            ).fetchall()
        return {GaussianEvent(rate, noise): count for rate, noise, count in rows}

    def spent(self, dataset: str, delta: float) -> float:
        """Returns the ε of everything released from a dataset, at δ."""
        with self._lock, explained(self._path):
            bare = self._connection.execute(
                "SELECT 1 FROM entries WHERE dataset = ? AND mode = ? LIMIT 1",
                (dataset, Noise.UNSAFE_NONE.value),
            ).fetchone()
        history = self.history(dataset)
        if bare:
            return math.inf
        return epsilon(history, delta) if history else 0.0

    def head(self) -> tuple[int, str]:
        """Returns number and hash of the last entry; 0 and `GENESIS` if there is none."""
        with self._lock, explained(self._path):
            row = self._connection.execute(
                "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1"
            ).fetchone()
        return row or (0, GENESIS)

    def _epsilon_after(self, charge: Charge, spent: float) -> float:
        if not charge.is_private or math.isinf(spent):
            return math.inf
        history = dict(self.history(charge.dataset))
        history[charge.event] = history.get(charge.event, 0) + charge.releases
        return epsilon(history, charge.delta)

    def _insert_use(self, session: str, step: int, attempt: int, time: float) -> None:
        try:
            self._connection.execute(
                "INSERT INTO uses VALUES (?, ?, ?, ?)", (session, step, attempt, time)
            )
        except sqlite3.IntegrityError as error:
            raise Refused(
                f"session {session}, step {step}, attempt {attempt} was used before",
                where=str(self._path),
                remedy="A vector is sent once: the server must ask for a new attempt.",
            ) from error

    def _insert(self, entry: Entry) -> None:
        values = (
            entry.seq,
            entry.time,
            *(getattr(entry.charge, field.name) for field in fields(Charge)),
            entry.epsilon_after,
            entry.previous_hash,
            entry.hash,
            entry.signature,
        )
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO entries VALUES ({marks})", values)  # noqa: S608

    def _prepare(self) -> None:
        with explained(self._path):
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise HortusError(
                    f"the ledger has format {version}, this program reads {_VERSION}",
                    where=str(self._path),
                )
            if version == 0:
                for statement in _statements(_SCHEMA):
                    self._connection.execute(statement)

    def _verify(self) -> None:
        """Walks the chain; the last signature vouches for all of it."""
        remedy = "`hortus audit` says which entry and why; restore the file from a backup."
        previous = GENESIS
        last: Entry | None = None
        try:
            for number, entry in enumerate(self.entries(), start=1):
                _check_link(entry, number, previous)
                previous, last = entry.hash, entry
        except (ValueError, TypeError) as error:
            raise HortusError(
                f"an entry was altered: {error}", where=str(self._path), remedy=remedy
            ) from error
        if last is not None and not is_entry_signed(last, self._identity.public_key_bytes):
            raise HortusError(
                f"entry {last.seq} was not signed by the key of {self._identity.site}",
                where=str(self._path),
                remedy=remedy,
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Holds the write lock of the file; durable on leaving, undone on an exception."""
        with self._lock, explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


SELECT_ENTRIES = "SELECT * FROM entries ORDER BY seq"


def entry_from_row(row: tuple[Any, ...]) -> Entry:
    """Reads a row of `SELECT_ENTRIES`.

    Raises:
        ValueError: A value is none that a charge can have.
        TypeError: Its type is none that a charge can have.
    """
    seq, time, *charged, after, previous_hash, hash_, signature = row
    return Entry(seq, time, Charge(*charged), after, previous_hash, hash_, signature)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite and the file system raise into one sentence that names the file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        where, problem = str(path), str(error)
        if "full" in problem:
            remedy = "Nothing was sent. Make room on its disk and start again."
            raise HortusError("the disk is full", where=where, remedy=remedy) from error
        if "locked" in problem:
            remedy = "Is a second agent of this site running?"
            raise HortusError(
                "another process holds the ledger", where=where, remedy=remedy
            ) from error
        remedy = "If the file is damaged, restore it from a backup."
        raise HortusError(
            f"the ledger cannot be used: {problem}", where=where, remedy=remedy
        ) from error
    except OSError as error:
        problem = f"the ledger cannot be opened: {error.strerror}"
        raise HortusError(problem, where=str(path)) from error


def _check_link(entry: Entry, number: int, previous_hash: str) -> None:
    if entry.hash != entry_hash(
        number, entry.time, entry.charge, entry.epsilon_after, previous_hash
    ):
        raise ValueError(f"the hash of number {number} does not fit")


def _exhausted(charge: Charge, spent: float, after: float, budget: float) -> Refused:
    return Refused(
        f"dataset {charge.dataset[:16]}… has spent ε = {spent:.4g}; this release would bring it to "
        f"ε = {after:.4g}, over its budget of ε = {budget:.4g} (δ = {charge.delta:g}, one "
        f"{charge.unit} added or removed)",
        where=f"step {charge.step} attempt {charge.attempt}",
        remedy="Nothing was sent. Raise budget.epsilon in policy.yaml only if the site decides so.",
    )


def _create_private(path: Path) -> None:
    """Makes an empty file that only its owner reads; SQLite gives its WAL the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    sync_directory(path.parent)


def _statements(script: str) -> Iterator[str]:
    """Splits a script; `executescript` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
