"""A site changes its identity key, and its ledger goes on: the old key hands over to the new one."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from hortus.privacy.ledger import Ledger
from hortus.protocol.card import SiteCard
from hortus.protocol.consortium import SiteConfig, SiteFiles
from hortus.protocol.errors import HortusError, UsageError
from hortus.protocol.identity import (
    HANDOVERS,
    Handover,
    Roster,
    SiteIdentity,
    load_handovers,
    save_handovers,
)
from hortus.protocol.membership import write_site_card


@contextmanager
def sole_agent(files: SiteFiles) -> Iterator[None]:
    """Holds a site's lock: only one process at a time signs in its name for long.

    Raises:
        HortusError: Another process holds it.
    """
    files.lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HortusError(
                "an agent of this site is running",
                where=str(files.directory),
                remedy="Stop hortus client first.",
            ) from error
        yield


def is_agent_running(files: SiteFiles) -> bool:
    """Whether an agent holds the site's lock now."""
    if not files.lock.exists():
        return False
    with files.lock.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def rotate_identity(files: SiteFiles, clock: Callable[[], float]) -> SiteCard:
    """Gives a site a new identity key, or completes a change that was cut short.

    The old key signs which key follows it and after which ledger entry, then it is deleted. Others go
    on with the old key until they have pinned the new card.

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
            "this site has pinned nobody yet: its key is new enough", where=str(files.roster)
        )
    with sole_agent(files):
        if not _is_begun(files, name):
            _hand_over(files, name, clock)
        if files.next_identity.exists():
            files.next_identity.replace(files.identity)
        identity = SiteIdentity.load(files.identity, name)
        roster = Roster.load(files.roster)
        sites = {**roster.sites, name: identity.public_key_bytes}
        handovers = {**roster.handovers, name: identity.handovers}
        replace(roster, sites=sites, handovers=handovers).save(files.roster)
        return write_site_card(files, datetime.fromtimestamp(clock(), UTC))


def _hand_over(files: SiteFiles, name: str, clock: Callable[[], float]) -> None:
    """Makes the next key and lets the present one sign for it: from here on there is no way back."""
    files.next_identity.unlink(missing_ok=True)
    following = SiteIdentity.create(name, files.next_identity)
    identity = SiteIdentity.load(files.identity, name)
    with closing(Ledger.open(files.ledger, identity, clock)) as ledger:
        last, head = ledger.head()
    handover = Handover.make(identity, following.public_key_bytes, last, head)
    save_handovers(files.identity.with_name(HANDOVERS), (*identity.handovers, handover))


def _is_begun(files: SiteFiles, name: str) -> bool:
    """Whether a hand-over is signed that key or roster do not follow yet."""
    handovers = load_handovers(files.identity.with_name(HANDOVERS))
    if not handovers:
        return False
    pinned = Roster.load(files.roster).sites.get(name, b"").hex()
    return pinned != handovers[-1].successor
