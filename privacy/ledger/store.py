"""A site's ledger: the journal of every release, which also holds the budget.

A release is reserved before it is computed, and charged, durably, before its first byte leaves the site.
"""

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.books import Account, exceeded
from hortus.privacy.ledger.charges import Charge, Charged, Level
from hortus.privacy.ledger.contents import Contents, check_apart
from hortus.privacy.ledger.decisions import (
    Admitted,
    Approved,
    Declined,
    Disjoint,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.holds import Holds, Reservation
from hortus.privacy.ledger.journal import Journal, explained
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.marks import Content, Marks, Stay
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget
from hortus.runtime.errors import Refused, UsageError

# A server may ask as often as it likes: only charges and decisions make room for more refusals.
_MOST_REFUSALS_IN_A_ROW = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of an account.

    Attributes:
        account: What it has released; None for nothing.
        granted: What grants have added to its lifetime budget.
        frozen: Why nothing may be released from it; None if it may.
    """

    account: Account | None
    granted: float
    frozen: str | None


class Ledger(Journal):
    """One site's ledger; `open` it. Threads and processes may share the file."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        identity: Identity,
        clock: Callable[[], float],
    ) -> None:
        """Use `open`."""
        super().__init__(path, connection, identity, clock)
        self._marks = Marks(connection)
        self._holds = Holds(connection, clock)
        self._contents = Contents(self._books, self._marks, self._holds)

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
            self._holds.check_unused(charge.key)
            self._covered(charge, budget, now)
            self._holds.add(reservation, now)
        return reservation

    def commit(self, reservation: Reservation) -> Entry:
        """Charges a release; when this returns, the entry is on disk and stays.

        Raises:
            Refused: The hold has lapsed and the budget is gone, or what `reserve` refuses.
            HortusError: The file cannot be written.
        """
        with self._transaction() as now:
            if not self._holds.is_pending(reservation, now):
                raise Refused(
                    "the step was begun too long ago, or was abandoned",
                    remedy="Nothing was sent. The server must ask for a new attempt.",
                )
            self._holds.drop(reservation)
            return self._charge(reservation.charge, reservation.budget, now)

    def cancel(self, reservation: Reservation) -> None:
        """Gives back what was held for a release that will not be."""
        with self._transaction():
            self._holds.drop(reservation)

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
            self._holds.check_unused((session, step, attempt))
            self._holds.note_use((session, step, attempt), now)

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
            self._contents.follow(content, self._head[0])

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
                    "something was already released from these records, and the people in them have spent it",
                    where=f"dataset {content.dataset[:16]}",
                    remedy="Make the statement before a plan uses the file.",
                )
            if left := set(lineages.accounts()) - set(named):
                raise UsageError(
                    f"it does not mention dataset {', '.join(sorted(one[:16] for one in left))}",
                    where="--from",
                    remedy="Name every dataset that holds other people; otherwise the file inherits from the "
                    "omitted ones and has no account of its own.",
                )
            shared = self._contents.compare(content)
            for account in named:
                check_apart(content, account, shared.get(account, 0))
            head = self._head[0]
            self._marks.follow(content, content.dataset, (), head, head)
            return self._append(Disjoint(content.dataset, named, operator, reason), now)

    def foresee(self, content: Content) -> Placement:
        """Returns where a content would be charged if it was followed now; nothing is noted."""
        with self._reading():
            return self._contents.foresee(content)

    def account_of(self, dataset: str) -> str:
        """Returns the account that a content's next release is charged to."""
        with self._reading():
            return self._contents.place(dataset).account

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

    # What has been spent.

    def account(self, dataset: str) -> Account | None:
        """Returns what a content's account has released; None if nothing was charged to it."""
        with self._reading():
            return self._books.account(self._contents.place(dataset))

    def standing(self, place: Placement) -> Standing:
        """Returns the state of the account that something would be charged to."""
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
            return self._books.granted(self._contents.place(dataset))

    def frozen(self, dataset: str) -> str | None:
        """Returns why nothing may be released from a dataset; None if it may."""
        with self._reading():
            return self._books.frozen(self._contents.place(dataset))

    def held(self) -> list[Charge]:
        """Returns what is reserved and not charged yet."""
        with self._reading():
            return self._holds.held(self._clock())

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
        self._holds.check_unused(charge.key)
        levels = self._covered(charge, budget, now)
        self._holds.note_use(charge.key, now)
        place = self._contents.place(charge.dataset)
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
            raise UsageError(
                f"the charge's δ is {charge.delta}, but the budget's is {budget.delta}"
            )
        place = place or self._contents.place(charge.dataset)
        self._books.check(charge.unit, place)
        levels = self._books.levels(charge, place, budget, now)
        # While nothing was charged yet, whatever is held may open the account that all go by.
        own, is_first = {place.account, *place.joins}, not self._books.accounts
        held = [
            o
            for o in self._holds.held(now)
            if is_first or own & self._contents.accounts_of(o.dataset)
        ]
        with_held = self._books.levels(charge, place, budget, now, held) if held else levels
        return levels, exceeded(with_held)


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
