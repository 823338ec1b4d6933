"""What virtual sites are charged that keep no ledger: an accountant's book, in one file of the run.

    RUN_DIR/accounts.json

Sites that were always charged alike share an account, so the file stays small however many sites there are. Like
a ledger, it is written before anything is released.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.protocol.answer import BUDGET_SPENT
from hortus.runtime.errors import HortusError
from hortus.runtime.files import write_atomic
from hortus.runtime.schema import Schema

ACCOUNTS = "accounts.json"


class Account(Schema):
    """What some sites have spent, each the same.

    Attributes:
        sites: Their names, sorted.
        budget: ε that each may spend.
        delta: δ at which it is computed.
        charges: Sums that each was charged for.
        history: Sampling rate, noise multiplier and number of the private steps; empty without noise.
        after_round: ε after each round, by round from 0; empty without noise.
    """

    sites: tuple[str, ...] = Field(min_length=1)
    budget: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    charges: int = Field(0, ge=0)
    history: tuple[tuple[float, float, int], ...] = ()
    after_round: Mapping[int, float] = {}

    @property
    def epsilon(self) -> float:
        """ε by now; infinite without noise."""
        return math.inf if self.charges and not self.history else self.after(None, 0)

    def after(self, event: GaussianEvent | None, releases: int) -> float:
        """Returns ε after this many more private steps."""
        return epsilon(self._with(event, releases), self.delta)

    def charged(self, event: GaussianEvent | None, releases: int, round_: int) -> "Account":
        """Returns the account after the charge for a sum."""
        history, after = self._with(event, releases), dict(self.after_round)
        if event is not None:
            after[round_] = epsilon(history, self.delta)
        steps = sorted(history.items())
        return self.model_copy(
            update={
                "charges": self.charges + 1,
                "history": tuple((e.sampling_rate, e.noise_multiplier, n) for e, n in steps),
                "after_round": after,
            }
        )

    def of(self, sites: tuple[str, ...]) -> "Account":
        """Returns the same account of other sites."""
        return self.model_copy(update={"sites": sites})

    def _with(self, event: GaussianEvent | None, releases: int) -> dict[GaussianEvent, int]:
        history = {GaussianEvent(rate, noise): count for rate, noise, count in self.history}
        if event is not None:
            history[event] = history.get(event, 0) + releases
        return history


_ACCOUNTS = TypeAdapter(tuple[Account, ...])


class Accounts:
    """The accounts of all virtual sites of a run, durable.

    Args:
        directory: The run's folder.
        accounts: As they stand.
    """

    def __init__(self, directory: Path, accounts: Collection[Account]) -> None:
        self._path = directory / ACCOUNTS
        self._accounts = self._before = tuple(accounts)
        self._write()

    @classmethod
    def open(cls, directory: Path, budgets: Mapping[str, float], delta: float) -> "Accounts":
        """Opens the accounts of a run, or new ones.

        Args:
            directory: The run's folder.
            budgets: ε of each site.
            delta: δ at which ε is computed.

        Raises:
            HortusError: The accounts of an earlier start cannot be read.
        """
        alike: dict[float, list[str]] = {}
        for site, budget in sorted(budgets.items()):
            alike.setdefault(budget, []).append(site)
        new = [
            Account(sites=tuple(sites), budget=budget, delta=delta)
            for budget, sites in alike.items()
        ]
        return cls(directory, read_accounts(directory) or new)

    def refusals(
        self, sites: Collection[str], event: GaussianEvent | None, releases: int
    ) -> dict[str, str]:
        """Returns why sites cannot pay for one more sum, by name; a step without noise has no price.

        Args:
            sites: Of these.
            event: A private step.
            releases: Private steps in a sum.
        """
        refused: dict[str, str] = {}
        for account, asked, _ in _parted(self._accounts, sites):
            after = account.after(event, releases) if event and asked else 0.0
            if after > account.budget:
                why = (
                    f"{BUDGET_SPENT}: one more step would bring it to ε = {after:.3f} of "
                    f"{account.budget:g} (δ = {account.delta:g})"
                )
                refused |= dict.fromkeys(asked, why)
        return refused

    def charge(
        self, sites: Collection[str], event: GaussianEvent | None, releases: int, round_: int
    ) -> None:
        """Charges sites for a sum, durably, before they compute.

        Args:
            sites: Those that take part.
            event: A private step; None without noise.
            releases: Private steps in the sum.
            round_: From 0.
        """
        accounts = []
        for account, own, others in _parted(self._accounts, sites):
            accounts += [account.of(others)] if others else []
            accounts += [account.of(own).charged(event, releases, round_)] if own else []
        self._before, self._accounts = self._accounts, tuple(accounts)
        self._write()

    def take_back(self, sites: Collection[str]) -> None:
        """Takes the last charge back from sites whose step has failed: they have released nothing."""
        kept = [a.of(others) for a, _, others in _parted(self._accounts, sites) if others]
        restored = [a.of(own) for a, own, _ in _parted(self._before, sites) if own]
        self._accounts = (*kept, *restored)
        self._write()

    def epsilon(self) -> dict[str, float]:
        """Returns what each site has spent; infinite without noise."""
        spent = [(account.sites, account.epsilon) for account in self._accounts]
        return dict(sorted((site, value) for sites, value in spent for site in sites))

    def _write(self) -> None:
        write_atomic(self._path, _ACCOUNTS.dump_json(self._accounts))


def _parted(
    accounts: Iterable[Account], sites: Collection[str]
) -> Iterator[tuple[Account, tuple[str, ...], tuple[str, ...]]]:
    """Yields every account, which of these sites have it, and which others."""
    wanted = frozenset(sites)
    for account in accounts:
        own = tuple(site for site in account.sites if site in wanted)
        yield account, own, tuple(site for site in account.sites if site not in wanted)


def read_accounts(directory: Path) -> tuple[Account, ...]:
    """Reads the accounts in a run's folder; none where its sites keep ledgers.

    Raises:
        HortusError: The file is damaged.
    """
    path = directory / ACCOUNTS
    try:
        return _ACCOUNTS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise HortusError(
            f"these are no accounts: {error.errors()[0]['msg']}", where=str(path)
        ) from error
