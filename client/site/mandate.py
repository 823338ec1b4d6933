"""What a site's operator has allowed: policy.yaml, and the plans that the ledger has as approved."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from hortus.privacy.ledger.decisions import Approved, Withdrawn
from hortus.privacy.ledger.entries import Entry
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Policy


@dataclass(frozen=True, slots=True)
class Mandate:
    """What a site goes by when it is asked to take part.

    Attributes:
        policy: policy.yaml.
        approved: Hashes of the plans that the operator has read and approved.
        withdrawn: Hashes of those that the operator has withdrawn from.
        names_model: Whether site.yaml says where the base model lies.
    """

    policy: Policy
    approved: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()
    names_model: bool = False

    @classmethod
    def of(cls, policy: Policy, consents: Iterable[Entry], *, names_model: bool) -> Self:
        """Makes it of the last entry on each plan."""
        bodies = [entry.body for entry in consents]
        return cls(
            policy,
            frozenset(body.plan for body in bodies if isinstance(body, Approved)),
            frozenset(body.plan for body in bodies if isinstance(body, Withdrawn)),
            names_model,
        )

    def with_approved(self, contract: Contract) -> Self:
        """Returns what it would be if the operator approved a plan now."""
        plan = {contract.digest()}
        return replace(self, approved=self.approved | plan, withdrawn=self.withdrawn - plan)

    def is_unread(self, contract: Contract) -> bool:
        """Whether nobody here has read and approved a contract."""
        return contract.digest() not in self.approved
