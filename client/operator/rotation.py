"""A site changes its identity key: the old key signs the new one, and the ledger continues."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from hortus.parties.card import SiteCard
from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.parties.identity_change import replace_identity, sole
from hortus.parties.renewal import write_site_card
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.runtime.errors import UsageError


def rotate_identity(files: SiteFiles, clock: Callable[[], float]) -> SiteCard:
    """Gives a site a new identity key, or completes a change that was interrupted.

    The old key signs after which ledger entry the new one follows it.

    Args:
        files: The site's folder; no agent may be running.
        clock: Seconds since the epoch.

    Returns:
        The site's new card, for the server and every other site to add.

    Raises:
        UsageError: The site has not joined a consortium yet.
        HortusError: Its agent is running, or the ledger was altered.
    """
    name = SiteConfig.load(files.config).site
    if not files.roster.exists():
        raise UsageError(
            "this site has not pinned anybody yet, so its key is still new", where=str(files.roster)
        )

    def head(identity: Identity) -> tuple[int, str]:
        with closing(Ledger.open(files.ledger, identity, clock)) as ledger:
            return ledger.head()

    with sole(files):
        replace_identity(files, name, head)
        return write_site_card(files, datetime.fromtimestamp(clock(), UTC))
