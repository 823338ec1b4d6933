"""Terms that no file changes."""

from dataclasses import dataclass

from hortus.client.consent.terms import Account


@dataclass(frozen=True, slots=True)
class FixedTerms:
    """The same account for every step."""

    account: Account

    def now(self) -> Account:
        return self.account

    def renewed(self) -> Account:
        return self.account
