"""Whether a ledger's charges went to the accounts that the entries before them allow."""

from collections.abc import Iterator

from hortus.privacy.audit.findings import Finding, broken
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.decisions import Disjoint
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.lineages import Lineages


class Accounts:
    """Follows lineages over a ledger's entries.

    Which of several accounts a content shares units with, only the site can tell. What entries show is
    that each content stays in its account, and that no account is opened without a signed statement
    that it holds other people than all accounts before it.
    """

    def __init__(self) -> None:
        self._lineages = Lineages()

    def root(self, name: str) -> str:
        """Returns the account that a content, or an account joined into another, now belongs to."""
        return self._lineages.root(name)

    def check(self, entry: Entry) -> list[Finding]:
        """Returns what an entry does that the ones before it do not allow, and follows it."""
        findings: list[Finding] = []
        match entry.body:
            case Charged() as charged:
                findings = list(self._check_charge(entry.seq, charged))
            case Disjoint() as statement:
                findings = list(self._check_statement(entry.seq, statement))
        self._lineages.add(entry.body)
        return findings

    def _check_charge(self, seq: int, charged: Charged) -> Iterator[Finding]:
        lineages, dataset, account = self._lineages, charged.charge.dataset, charged.account
        known = lineages.accounts()
        if lineages.is_charged(dataset):
            if account != lineages.root(dataset):
                yield broken(
                    seq,
                    f"its dataset was charged to account {lineages.root(dataset)[:16]} earlier",
                    "What the same records had already spent does not count.",
                )
        elif account not in known and (account != dataset or lineages.unstated(dataset)):
            yield broken(
                seq,
                "it opens an account, and no statement says that it holds other people than "
                + (", ".join(one[:16] for one in lineages.unstated(dataset)) or "those before it"),
                "A changed file got a budget of its own.",
            )
        if strange := set(charged.joins) - set(known):
            yield broken(
                seq,
                f"it joins {', '.join(sorted(one[:16] for one in strange))}, which is not an account",
                "A faulty program wrote it, or entries are missing.",
            )

    def _check_statement(self, seq: int, statement: Disjoint) -> Iterator[Finding]:
        if self._lineages.is_charged(statement.dataset):
            yield broken(
                seq,
                "something was already released from the records that it calls other people's",
                "What these records had spent would not count.",
            )
