"""A site's signed answer to a contract, so that no node can accept or refuse in another site's name."""

import hashlib
from dataclasses import dataclass

from hortus.protocol.identity import Identity, Roster
from hortus.runtime.canonical import canonical_json

CHALLENGE_BYTES = 32
_CONTEXT = "answer to a contract"
# How a site begins to say that a release would cost more than it allows.
BUDGET_SPENT = "its budget is spent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site says when it is asked whether it would take part.

    Attributes:
        site: The site's name.
        refusal: Why not; empty when it would.
        again: Seconds until it may know; 0 when it has decided.
        signature: Ed25519, over the question and all of the above.
    """

    site: str
    refusal: str
    again: int
    signature: bytes

    @classmethod
    def sign(
        cls,
        identity: Identity,
        challenge: bytes,
        contract: bytes,
        refusal: str,
        again: int = 0,
    ) -> "Answer":
        """Answers a question.

        Args:
            identity: The site's.
            challenge: Fresh random bytes of whoever asks, so that no answer is worth keeping.
            contract: As it was sent.
            refusal: Why not; empty when the site would take part.
            again: Seconds until it may know; 0 when it has decided.
        """
        said = _signed(identity.site, challenge, contract, refusal, again)
        return cls(identity.site, refusal, again, identity.sign(_CONTEXT, said))

    def verify(self, roster: Roster, challenge: bytes, contract: bytes) -> None:
        """Checks that the site itself has given this answer to this question.

        Raises:
            ProtocolError: It did not, or it is not in the roster.
        """
        said = _signed(self.site, challenge, contract, self.refusal, self.again)
        roster.verify(self.site, _CONTEXT, said, self.signature)


def _signed(site: str, challenge: bytes, contract: bytes, refusal: str, again: int) -> bytes:
    return canonical_json(
        {
            "site": site,
            "challenge": challenge.hex(),
            "contract": hashlib.sha256(contract).hexdigest(),
            "refusal": refusal,
            "again": again,
        }
    )
