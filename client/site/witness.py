"""What a site does with its ledger's head: shows it, and checks the one that it is shown."""

import logging
from dataclasses import dataclass

from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import Refused

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Witness:
    """A site's dealings with the server's notary.

    Attributes:
        identity: The site's.
        roster: Has the server's key.
        ledger: The site's.
    """

    identity: Identity
    roster: Roster
    ledger: Ledger

    def check(self, announcements: wire.Announcements) -> None:
        """Checks the head that the server last countersigned, if it shows one.

        A head without this site's own signature is made up and worth nothing: a server cannot stop a site with it.

        Raises:
            Refused: The ledger does not contain what this site has signed: it is an older copy.
        """
        if not announcements.HasField("known_head"):
            return
        told = announcements.known_head
        head = LedgerHead(self.identity.site, told.seq, told.hash, told.signature)
        if not any(map(head.is_signed_by, self.identity.public_keys_since(head.seq))):
            logger.warning("the server showed a ledger head that this site never signed")
            return
        require(self.ledger, head)

    def head(self) -> LedgerHead | None:
        """Returns the signed head to show; None while the ledger is empty."""
        return self.ledger.signed_head()

    def keep(self, head: LedgerHead | None, turn: wire.Turn) -> None:
        """Stores the server's countersignature of the head that it was shown."""
        if head is None or not turn.HasField("countersignature"):
            return
        told = turn.countersignature
        countersignature = Countersignature(head, told.time, told.signature)
        if countersignature.is_signed_by(self.roster.server):
            self.ledger.keep(countersignature)
        else:
            logger.warning("the server's countersignature does not match its key in the roster")


def require(ledger: Ledger, head: LedgerHead) -> None:
    """Checks that a ledger contains an entry that its site has signed as its head.

    Raises:
        Refused: It does not: the ledger is an older copy, or another.
    """
    if ledger.contains(head.seq, head.hash):
        return
    raise Refused(
        f"the ledger was rolled back: it does not contain entry {head.seq}, which this site has "
        f"signed; it ends with entry {ledger.head()[0]}",
        where="ledger.sqlite",
        remedy="Put the newest copy back. If it is lost for good, count every budget as spent: the "
        "site can only join again under a new identity.",
    )
