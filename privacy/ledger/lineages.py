"""Which account a dataset's releases are charged to: a budget follows people, not a file's bytes.

A file that changes is a new content of the same dataset. All contents of a site share one account, its
lineage, unless the operator has stated that one holds other people (`entries.Disjoint`). Pure functions
of the entries; the rules are in docs/mathematics.md.
"""

from collections.abc import Collection
from dataclasses import dataclass

from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.decisions import Disjoint
from hortus.privacy.ledger.entries import Body


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a content's releases are charged.

    Attributes:
        account: The account, by the fingerprint of its first content.
        joins: Accounts that become one with it, since somebody may be in both.
    """

    account: str
    joins: tuple[str, ...] = ()


class Lineages:
    """The accounts of a site; `add` the bodies of its entries in order."""

    def __init__(self) -> None:
        self._opened: list[str] = []
        self._account: dict[str, str] = {}  # of each content that was charged
        self._into: dict[str, str] = {}  # what an account was joined into
        self._stated: dict[str, tuple[str, ...]] = {}

    def add(self, body: Body) -> None:
        """Follows an entry; other kinds than charges and statements change nothing here."""
        match body:
            case Charged(charge, account, joins):
                if account not in self._opened:
                    self._opened.append(account)
                self._account[charge.dataset] = account
                for joined in map(self.root, joins):
                    if joined != self.root(account):
                        self._into[joined] = self.root(account)
            case Disjoint(dataset, others):
                self._stated[dataset] = others

    def accounts(self) -> list[str]:
        """Returns the accounts that there are now, in the order in which they were opened."""
        return [account for account in self._opened if account not in self._into]

    def root(self, name: str) -> str:
        """Returns the account that a content, or an account joined into another, now belongs to.

        A name that was never charged is its own.
        """
        name = self._account.get(name, name)
        while name in self._into:
            name = self._into[name]
        return name

    def charged(self) -> list[str]:
        """Returns the contents that anything was released from."""
        return list(self._account)

    def is_charged(self, dataset: str) -> bool:
        """Returns whether anything was released from a content."""
        return dataset in self._account

    def unstated(self, dataset: str) -> list[str]:
        """Returns the accounts that no statement calls disjoint from a content."""
        others = {self.root(name) for name in self._stated.get(dataset, ())}
        return [account for account in self.accounts() if account not in others]

    def place(self, dataset: str, shared: Collection[str] = ()) -> Placement:
        """Returns where a content is charged next.

        Args:
            dataset: Its fingerprint.
            shared: Accounts that are known to share a unit with it. If none is, it inherits from
                every account that no statement calls disjoint from it. A name that nothing was
                charged to yet is not an account.
        """
        if self.is_charged(dataset):
            return Placement(self.root(dataset))
        known = self.accounts()
        among = {self.root(name) for name in shared}.intersection(known) or self.unstated(dataset)
        ordered = [account for account in known if account in among]
        return Placement(ordered[0], tuple(ordered[1:])) if ordered else Placement(dataset)
