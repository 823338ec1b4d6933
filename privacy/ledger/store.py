"""A site's ledger: a signed, hash-chained record of every release, which also holds the budget.

A release is reserved before it is computed, and charged, durably, before its first byte leaves the
site. Entries are never changed or deleted. Each entry's hash covers the one before it, so a
signature vouches for everything up to its entry. Who can write to the site's disk can still put an
older copy in place; that shows against the heads that the server has countersigned, and against an
anchor that the operator keeps elsewhere (docs/protocol.md).
"""

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.books import Account, Books, exceeded
from hortus.privacy.ledger.entries import (
    GENESIS,
    Admitted,
    Approved,
    Body,
    Charge,
    Charged,
    Declined,
    Disjoint,
    Entry,
    Frozen,
    Granted,
    Level,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.marks import Content, Marks, Stay
from hortus.privacy.ledger.reader import (
    SELECT_ENTRIES,
    SELECT_ENTRIES_AFTER,
    altered,
    continued,
)
from hortus.privacy.ledger.schema import prepare
from hortus.protocol.heads import Countersignature, Head
from hortus.protocol.identity import SiteIdentity
from hortus.protocol.policy import Budget
from hortus.runtime.databases import remedy_for
from hortus.runtime.errors import HortusError, Refused, UsageError
from hortus.runtime.faults import Fault, reach
from hortus.runtime.files import sync_directory
from hortus.runtime.surroundings import out_of_files

# Another process of this site may be computing an ε inside its transaction.
_BUSY_SECONDS = 120.0
# A server may ask as often as it likes: only charges and decisions make room for more refusals.
_MOST_REFUSALS_IN_A_ROW = 20
# A step that takes longer than this loses its hold on the budget, not its right to be charged.
_HOLD_SECONDS = 3600.0
# After so long it is not charged at all: whoever was in its records need not be remembered for it.
_MOST_SECONDS = 7 * 86_400.0
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Reservation:
    """Budget held for a release that is not computed yet.

    Attributes:
        id: Its name in the file.
        charge: The release.
        budget: What it was checked against; None if the policy sets no limit.
    """

    id: str
    charge: Charge
    budget: Budget | None


def dataset_fingerprint(key: bytes, records: Iterable[bytes]) -> str:
    """Identifies a content by its records, in whatever order and under whatever file name.

    Args:
        key: A secret of the site: without it, nobody can test whether a guessed dataset is this one.
        records: A canonical encoding of each record.

    Returns:
        HMAC-SHA256, 64 hexadecimal digits.
    """
    digests = sorted(hashlib.sha256(record).digest() for record in records)
    return hmac.new(key, b"hortus/v1/dataset\x00" + b"".join(digests), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands.

    Attributes:
        account: What it has released; None for nothing.
        granted: What grants have added to its lifetime budget.
        frozen: Why nothing may be released from it; None if it may.
    """

    account: Account | None
    granted: float
    frozen: str | None


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
        self._books = Books()
        self._marks = Marks(connection)
        self._head = (0, GENESIS)
        # What the open transaction adds: counted once it is on disk.
        self._added: Entry | None = None

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
        except BaseException:
            connection.close()
            raise
        return ledger

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    # What a release does, in this order: reserve, compute, commit, send, mark_sent.

    def reserve(self, charge: Charge, budget: Budget | None) -> Reservation:
        """Holds budget for a release, durably, so that no other process can spend it meanwhile.

        The hold lapses when the process that made it has ended, and after an hour. That is sound at
        any moment: nothing leaves before `commit`, which checks the budget once more.

        Args:
            charge: The release.
            budget: What the site allows, at the charge's δ; None where the policy sets no limit.

        Raises:
            Refused: The budget does not cover it, the dataset is frozen or protects another unit,
                or this attempt was charged or used before.
            HortusError: The file cannot be written.
        """
        reservation = Reservation(secrets.token_hex(8), charge, budget)
        with self._transaction() as now:
            self._check_unused(charge.key)
            self._covered(charge, budget, now)
            row = (reservation.id, json.dumps(asdict(charge)), os.getpid(), now + _HOLD_SECONDS)
            self._connection.execute("INSERT INTO reservations VALUES (?, ?, ?, ?)", row)
        return reservation

    def commit(self, reservation: Reservation) -> Entry:
        """Charges a release; when this returns, the entry is on disk and stays.

        Raises:
            Refused: The hold has lapsed and the budget is gone, or what `reserve` refuses.
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            if not self._is_pending(reservation, now):
                raise Refused(
                    "the step was begun too long ago, or was given up",
                    remedy="Nothing was sent. The server must ask for a new attempt.",
                )
            self._drop(reservation)
            return self._charge(reservation.charge, reservation.budget, now)

    def cancel(self, reservation: Reservation) -> None:
        """Gives back what was held for a release that will not be."""
        with self._transaction():
            self._drop(reservation)

    def charge(self, charge: Charge, budget: Budget | None) -> Entry:
        """Reserves and commits in one; see both."""
        with self._transaction() as now:
            return self._charge(charge, budget, now)

    def record_use(self, session: str, step: int, attempt: int) -> None:
        """Notes, on disk, that a vector already charged is sent again under new masks.

        Raises:
            Refused: This attempt was charged or used before.
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            self._check_unused((session, step, attempt))
            self._insert_use((session, step, attempt), now)

    def mark_sent(self, session: str, step: int, attempt: int) -> None:
        """Notes that the server has taken the vector of an attempt."""
        with self._transaction() as now:
            row = (session, step, attempt, now)
            self._connection.execute("INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?)", row)

    def decline(self, refusal: Declined) -> None:
        """Adds a refusal, unless it is among the last entries already, or they are all refusals.

        Raises:
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            refused = self._books.refused
            if refusal not in refused and len(refused) < _MOST_REFUSALS_IN_A_ROW:
                self._append(refusal, now)

    # What the operator does.

    def record(self, body: Granted | Frozen | Unfrozen | Approved | Withdrawn) -> Entry:
        """Adds an operator's decision.

        Raises:
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            return self._append(body, now)

    # Which plans the site takes part in.

    def admit(self, body: Admitted) -> None:
        """Notes that a plan that nobody has read is taken part in, unless an entry says so already.

        Raises:
            Refused: The operator has withdrawn from it meanwhile.
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            said = self._books.consents.get(body.plan)
            if said is None:
                self._append(body, now)
            elif isinstance(said.body, Withdrawn):
                raise Refused("the site's operator has withdrawn from the plan")

    def consents(self) -> Mapping[str, Entry]:
        """Returns the last entry on each plan: its approval, admission or withdrawal; the newest last."""
        with self._reading():
            return dict(self._books.consents)

    # Which people a dataset holds.

    def is_following(self, dataset: str, unit: str) -> bool:
        """Returns whether a content is the one that `follow` has seen last, with such units."""
        with self._lock, explained(self._path):
            return self._marks.is_current(dataset, unit)

    def current(self) -> str | None:
        """Returns the content that `follow` has seen last; None before the first."""
        with self._lock, explained(self._path):
            return self._marks.current()

    def follow(self, content: Content) -> None:
        """Takes up what the site's records are now; comes before anything is released from them.

        No entry is written: its number would tell the server that the records have changed. The next
        charge names the account that they belong to.

        Raises:
            HortusError: The file cannot be written.
        """
        with self._transaction():
            if not self._marks.is_current(content.dataset, content.unit):
                shared = self._compare(content)
                place = self._books.lineages.place(content.dataset, shared)
                head, lineages = self._head[0], self._books.lineages
                # Whoever is in what was released from before it was hashed may always have been there.
                unseen = lineages.is_charged(content.dataset) and not self._marks.is_known(content)
                since = 0 if unseen else head
                self._marks.follow(content, place.account, shared, head, since)

    def state_disjoint(
        self, content: Content, others: Sequence[str], operator: str, reason: str
    ) -> Entry:
        """Adds an operator's statement that a content holds other people than some accounts.

        Args:
            content: What it is about; it is followed from then on.
            others: The accounts.
            operator: Name of whoever states it.
            reason: Why it is so.

        Raises:
            UsageError: Something was released from the content before, an account is not named, or
                units are in both, or cannot be compared.
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            lineages = self._books.lineages
            named = tuple(dict.fromkeys(map(lineages.root, others)))
            if lineages.is_charged(content.dataset):
                raise UsageError(
                    "something was released from these records before: whoever is in them has spent it",
                    where=f"dataset {content.dataset[:16]}",
                    remedy="State it of a file before a plan uses it.",
                )
            if left := set(lineages.accounts()) - set(named):
                raise UsageError(
                    f"it says nothing of dataset {', '.join(sorted(one[:16] for one in left))}",
                    where="--from",
                    remedy="Name every dataset that holds other people; else it inherits from those "
                    "left out, and has no account of its own.",
                )
            shared = self._compare(content)
            for account in named:
                _check_apart(content, account, shared.get(account, 0))
            head = self._head[0]
            self._marks.follow(content, content.dataset, (), head, head)
            return self._append(Disjoint(content.dataset, named, operator, reason), now)

    def foresee(self, content: Content) -> Placement:
        """Returns where a content would be charged if it was followed now; nothing is noted."""
        with self._reading():
            if self._marks.is_current(content.dataset, content.unit):
                return self._place(content.dataset)
            return self._books.lineages.place(content.dataset, self._shared(content))

    def account_of(self, dataset: str) -> str:
        """Returns the account that a content's next release is charged to."""
        with self._reading():
            return self._place(dataset).account

    def contents(self) -> Mapping[str, str]:
        """Returns the account of each content that anything was released from."""
        with self._reading():
            lineages = self._books.lineages
            return {dataset: lineages.root(dataset) for dataset in lineages.charged()}

    def stays(self, account: str) -> list[Stay]:
        """Returns the units of an account, by when they came and went; without those never seen."""
        with self._reading():
            lineages, known = self._books.lineages, self._books.accounts.get(account)
            if known is None:
                return []
            names = [n for n in self._marks.accounts() if lineages.root(n) == account]
            return list(self._marks.stays(names, known.unit))

    # Heads, by which others notice an older copy.

    def head(self) -> tuple[int, str]:
        """Returns number and hash of the last entry; 0 and `GENESIS` if there is none."""
        with self._reading():
            return self._head

    def signed_head(self) -> Head | None:
        """Returns the head with the site's signature; None while there is no entry."""
        seq, hash_ = self.head()
        return Head.sign(self._identity, seq, hash_) if seq else None

    def contains(self, seq: int, hash_: str) -> bool:
        """Returns whether the entry of that number has that hash."""
        with self._lock, explained(self._path):
            row = self._connection.execute(
                "SELECT 1 FROM entries WHERE seq = ? AND hash = ?", (seq, hash_)
            ).fetchone()
        return row is not None

    def keep(self, countersignature: Countersignature) -> None:
        """Stores what the server has countersigned; who calls it has checked the signature."""
        c = countersignature
        with self._transaction():
            row = (c.head.seq, c.head.hash, c.time, c.signature)
            self._connection.execute(
                "INSERT OR IGNORE INTO countersignatures VALUES (?, ?, ?, ?)", row
            )

    def last_countersigned(self) -> float | None:
        """Returns when the server last saw a head, by its clock, in seconds since the epoch."""
        with self._lock, explained(self._path):
            row = self._connection.execute("SELECT MAX(time) FROM countersignatures").fetchone()
        return None if row[0] is None else float(row[0])

    # What has been spent.

    def entries(self) -> Iterator[Entry]:
        """Yields all entries in order."""
        with self._lock, explained(self._path):
            rows = self._connection.execute(SELECT_ENTRIES).fetchall()
        return (Entry.parse(content, hash_, signature) for _, content, hash_, signature in rows)

    def account(self, dataset: str) -> Account | None:
        """Returns what a content's account has released; None if nothing was charged to it."""
        with self._reading():
            return self._books.account(self._place(dataset))

    def standing(self, place: Placement) -> Standing:
        """Returns how the account stands that something would be charged to."""
        with self._reading():
            return Standing(
                self._books.account(place), self._books.granted(place), self._books.frozen(place)
            )

    def history(self, dataset: str) -> Mapping[GaussianEvent, int]:
        """Returns how often each event has been released from a dataset, whatever its contents.

        Releases without privacy are no such events: `spent` is infinite after one.
        """
        account = self.account(dataset)
        return dict(account.lifetime.history) if account else {}

    def spent(self, dataset: str, delta: float) -> float:
        """Returns the ε of everything released from a dataset, whatever its contents, at δ."""
        account = self.account(dataset)
        return account.lifetime.epsilon(delta) if account else 0.0

    def accounts(self) -> Mapping[str, Account]:
        """Returns every account's releases; not to be changed."""
        with self._reading():
            return dict(self._books.accounts)

    def granted(self, dataset: str) -> float:
        """Returns what grants have added to a dataset's lifetime budget."""
        with self._reading():
            return self._books.granted(self._place(dataset))

    def frozen(self, dataset: str) -> str | None:
        """Returns why nothing may be released from a dataset; None if it may."""
        with self._reading():
            return self._books.frozen(self._place(dataset))

    def held(self) -> list[Charge]:
        """Returns what is reserved and not charged yet."""
        with self._reading():
            return self._held(self._clock())

    def check(self, place: Placement, unit: str) -> None:
        """Checks what no budget can buy.

        Raises:
            Refused: The account is frozen, or protects another unit.
        """
        with self._reading():
            self._books.check(unit, place)

    def shortfall(
        self, charge: Charge, budget: Budget | None, place: Placement | None = None
    ) -> Level | None:
        """Returns the budget that would not cover a charge now; None if all would.

        Whose its session and run are does not matter: a server may have given any name to one.

        Args:
            charge: The charge.
            budget: What the site allows; None where the policy sets no limit.
            place: Where it would be charged, by `foresee`; None for where its content is now.

        Raises:
            Refused: The dataset is frozen, or protects another unit.
        """
        with self._reading():
            return self._levels(charge, budget, self._clock(), place)[1]

    def _charge(self, charge: Charge, budget: Budget | None, now: float) -> Entry:
        self._check_unused(charge.key)
        levels = self._covered(charge, budget, now)
        self._insert_use(charge.key, now)
        place = self._place(charge.dataset)
        entry = self._append(Charged(charge, place.account, place.joins, levels), now)
        self._marks.extend(charge.dataset, entry.seq)
        return entry

    def _covered(self, charge: Charge, budget: Budget | None, now: float) -> tuple[Level, ...]:
        """Returns what the charge brings each scope to, if every budget covers it."""
        self._books.check_plan(charge)
        levels, over = self._levels(charge, budget, now)
        if over is not None:
            raise _exhausted(charge, over, self.spent(charge.dataset, charge.delta))
        return levels

    def _levels(
        self, charge: Charge, budget: Budget | None, now: float, place: Placement | None = None
    ) -> tuple[tuple[Level, ...], Level | None]:
        """Returns what the charge alone brings each scope to, and what it exceeds with the held."""
        if budget is not None and charge.delta != budget.delta:
            raise UsageError(f"the charge's δ is {charge.delta}, the budget's {budget.delta}")
        place = place or self._place(charge.dataset)
        self._books.check(charge.unit, place)
        levels = self._books.levels(charge, place, budget, now)
        # While nothing was charged yet, whatever is held may open the account that all go by.
        own, is_first = {place.account, *place.joins}, not self._books.accounts
        held = [o for o in self._held(now) if is_first or own & self._accounts_of(o.dataset)]
        with_held = self._books.levels(charge, place, budget, now, held) if held else levels
        return levels, exceeded(with_held)

    def _place(self, dataset: str) -> Placement:
        """Returns where a content is charged: where its units are, or where they may be."""
        lineages = self._books.lineages
        shared = self._marks.shared_with(dataset)
        return lineages.place(dataset, lineages.accounts() if shared is None else shared)

    def _accounts_of(self, dataset: str) -> set[str]:
        place = self._place(dataset)
        return {place.account, *place.joins}

    def _compare(self, content: Content) -> dict[str, int]:
        """Returns how many units of a content are in each account; -1 where nobody can tell."""
        if not self._is_anything_pending():
            self._marks.forget(self._was_charged, self._books.lineages.charged())
        return self._shared(content)

    def _shared(self, content: Content) -> dict[str, int]:
        """The same, without dropping from the file what is not needed any more."""
        lineages = self._books.lineages
        may_be_charged = self._is_anything_pending()

        def charged(name: str, after: int, until: int) -> bool:
            return may_be_charged or self._was_charged(name, after, until)

        shared: dict[str, int] = {}
        for name, count in self._marks.compare(content, charged).items():
            root = lineages.root(name)
            shared[root] = max(count, shared.get(root, 0))
        unseen = self._marks.unseen(lineages.charged(), content.key)
        return shared | dict.fromkeys(map(lineages.root, unseen), UNKNOWN)

    def _was_charged(self, name: str, after: int, until: int) -> bool:
        account = self._books.accounts.get(self._books.lineages.root(name))
        return account is not None and account.was_charged(after, until)

    def _append(self, body: Body, now: float) -> Entry:
        seq, previous = self._head
        entry = Entry.make(seq + 1, now, body, previous, self._identity)
        row = (entry.seq, entry.content, entry.hash, entry.signature)
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        self._added = entry
        return entry

    def _check_unused(self, key: tuple[str, int, int]) -> None:
        used = self._connection.execute(
            "SELECT 1 FROM uses WHERE session = ? AND step = ? AND attempt = ?", key
        ).fetchone()
        if used:
            session, step, attempt = key
            raise Refused(
                f"session {session}, step {step}, attempt {attempt} was used before",
                remedy="A vector is sent once: the server must ask for a new attempt.",
            )

    def _insert_use(self, key: tuple[str, int, int], now: float) -> None:
        self._connection.execute("INSERT INTO uses VALUES (?, ?, ?, ?)", (*key, now))

    def _held(self, now: float) -> list[Charge]:
        rows = self._connection.execute("SELECT charge, process, until FROM reservations")
        return [
            Charge(**json.loads(charge))
            for charge, process, until in rows.fetchall()
            # A hold from the future was made before the clock was set back.
            if now <= until <= now + _HOLD_SECONDS and _is_alive(process)
        ]

    def _is_anything_pending(self) -> bool:
        """Whether a step may still be charged, also one whose hold has lapsed."""
        rows = self._connection.execute(
            "SELECT DISTINCT process FROM reservations WHERE until >= ?",
            (self._clock() - _MOST_SECONDS,),
        )
        return any(_is_alive(process) for (process,) in rows.fetchall())

    def _is_pending(self, reservation: Reservation, now: float) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM reservations WHERE id = ? AND until >= ?",
            (reservation.id, now - _MOST_SECONDS),
        ).fetchone()
        return row is not None

    def _drop(self, reservation: Reservation) -> None:
        self._connection.execute("DELETE FROM reservations WHERE id = ?", (reservation.id,))

    def _prepare(self) -> None:
        with explained(self._path):
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                prepare(self._connection)
                self._connection.execute("COMMIT")
            except ValueError as error:
                self._connection.execute("ROLLBACK")
                raise HortusError(str(error), where=str(self._path)) from error
        with self._reading():
            pass

    def _catch_up(self) -> None:
        """Checks and counts what was added since the last time, by whatever process."""
        if self._head[0] and not self.contains(*self._head):
            raise altered(f"entry {self._head[0]} is not there any more", self._path)
        key_at, site = self._identity.public_key_at, self._identity.site
        # One entry at a time: a long ledger is never in memory as a whole.
        with closing(self._connection.execute(SELECT_ENTRIES_AFTER, (self._head[0],))) as rows:
            try:
                for entry in continued(rows, self._head, key_at, site):
                    self._count(entry)
            except UnicodeDecodeError:
                raise  # `explained` knows it
            except ValueError as error:
                raise altered(str(error), self._path) from error

    def _count(self, entry: Entry) -> None:
        self._books.add(entry)
        self._head = (entry.seq, entry.hash)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, explained(self._path):
            self._catch_up()
            yield

    @contextmanager
    def _transaction(self) -> Iterator[float]:
        """Holds the write lock of the file; durable on leaving, undone on an exception."""
        with self._lock, explained(self._path):
            reach(Fault.LEDGER_BEFORE_BEGIN)
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                self._added = None
                yield self._clock()
                reach(Fault.LEDGER_BEFORE_COMMIT)
                self._connection.execute("COMMIT")
                reach(Fault.LEDGER_DURABLE)
                if self._added is not None:
                    self._count(self._added)
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


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
        raise HortusError(
            f"the ledger cannot be used: {problem}", where=where, remedy=remedy_for(error, path)
        ) from error
    except UnicodeDecodeError as error:
        # What SQLite finds on a damaged page it may take for text.
        raise HortusError(
            "the ledger is damaged: it holds bytes that are no text",
            where=str(path),
            remedy="Restore it from a backup.",
        ) from error
    except OSError as error:
        problem = f"the ledger cannot be opened: {error.strerror}"
        raise HortusError(problem, where=str(path), remedy=out_of_files()) from error


def _check_apart(content: Content, account: str, shared: int) -> None:
    """Checks that a content has no unit in common with an account, as far as hashes tell."""
    where = f"dataset {account[:16]}"
    if shared == UNKNOWN:
        raise UsageError(
            "the units that it was released from were not hashed with this site's present key: "
            "nobody can tell whether they are others",
            where=where,
            remedy="Leave the records in that dataset's account, which they inherit automatically.",
        )
    if shared:
        raise UsageError(
            f"{shared} of {content.units} units are in both",
            where=where,
            remedy="Take them out of the file, or leave it in that dataset's account, which it "
            "inherits on its own.",
        )


def _exhausted(charge: Charge, level: Level, spent: float) -> Refused:
    """Explains a refusal, to the server too: a fingerprint would tell it when records change."""
    return Refused(
        f"the dataset has spent ε = {spent:.4g}; this release, with those that are being computed, "
        f"would bring {level.name} to ε = {level.epsilon:.4g}, over its budget of ε = {level.limit:.4g} "
        f"(δ = {charge.delta:g}, one {charge.unit} added or removed)",
        where=f"step {charge.step} attempt {charge.attempt}",
        remedy="Nothing was sent. Only the site can allow more: see `hortus budget grant` and "
        "`budget` in policy.yaml.",
    )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _create_private(path: Path) -> None:
    """Makes an empty file that only its owner reads; SQLite gives its WAL the same mode."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    sync_directory(path.parent)
