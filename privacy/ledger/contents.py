"""Which budget a content draws on: the accounts that its people, by their marks, are already in."""

from hortus.privacy.ledger.books import Books
from hortus.privacy.ledger.holds import Holds
from hortus.privacy.ledger.lineages import Placement
from hortus.privacy.ledger.marks import Content, Marks
from hortus.runtime.errors import UsageError

UNKNOWN = -1


class Contents:
    """Places contents in accounts; whoever calls a method has the ledger's file for itself.

    Args:
        books: What was charged so far.
        marks: Keyed hashes of units and rows.
        holds: What may be charged yet.
    """

    def __init__(self, books: Books, marks: Marks, holds: Holds) -> None:
        self._books = books
        self._marks = marks
        self._holds = holds

    def follow(self, content: Content, head: int) -> None:
        """Follows a content, unless it is the one that was seen last.

        Args:
            content: What the records are now.
            head: Number of the ledger's last entry.
        """
        if self._marks.is_current(content.dataset, content.unit):
            return
        lineages, shared = self._books.lineages, self.compare(content)
        place = lineages.place(content.dataset, shared)
        # Units of a content that was released from before it was hashed may always have been there.
        unseen = lineages.is_charged(content.dataset) and not self._marks.is_known(content)
        self._marks.follow(content, place.account, shared, head, 0 if unseen else head)

    def foresee(self, content: Content) -> Placement:
        """Returns where a content would be charged if it was followed now; nothing is noted."""
        if self._marks.is_current(content.dataset, content.unit):
            return self.place(content.dataset)
        return self._books.lineages.place(content.dataset, self.shared(content))

    def place(self, dataset: str) -> Placement:
        """Returns where a content is charged: where its units are, or where they may be."""
        lineages = self._books.lineages
        shared = self._marks.shared_with(dataset)
        return lineages.place(dataset, lineages.accounts() if shared is None else shared)

    def accounts_of(self, dataset: str) -> set[str]:
        """Returns the account that a content is charged to, with those that this would join to it."""
        place = self.place(dataset)
        return {place.account, *place.joins}

    def compare(self, content: Content) -> dict[str, int]:
        """Returns how many units of a content are in each account; -1 where nobody can tell."""
        if not self._holds.is_anything_pending():
            self._marks.forget(self._was_charged, self._books.lineages.charged())
        return self.shared(content)

    def shared(self, content: Content) -> dict[str, int]:
        """The same, without dropping from the file what is not needed any more."""
        lineages = self._books.lineages
        may_be_charged = self._holds.is_anything_pending()

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


def check_apart(content: Content, account: str, shared: int) -> None:
    """Checks that a content has no unit in common with an account, as far as hashes tell."""
    where = f"dataset {account[:16]}"
    if shared == UNKNOWN:
        raise UsageError(
            "the units that it was released from were not hashed with this site's current key, so nobody can "
            "tell whether they are different ones",
            where=where,
            remedy="Leave the records in that dataset's account, which they inherit automatically.",
        )
    if shared:
        raise UsageError(
            f"{shared} of {content.units} units are in both",
            where=where,
            remedy="Remove them from the file, or leave the file in that dataset's account, which it inherits "
            "automatically.",
        )
