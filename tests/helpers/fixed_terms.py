"""Terms that no file changes."""

from dataclasses import dataclass

from hortus.client.consent.terms import ChargeAccount


@dataclass(frozen=True, slots=True)
class FixedTerms:
    """The same account for every step."""

    account: ChargeAccount

    def now(self) -> ChargeAccount:
        return self.account

    def renewed(self) -> ChargeAccount:
        return self.account
