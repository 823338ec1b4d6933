"""A party changes its identity key: the old key hands over to the new one, and is deleted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from hortus.parties.card import ServerCard
from hortus.parties.folders import ServerFiles, SiteFiles
from hortus.parties.renewal import write_server_card
from hortus.protocol.identity import (
    HANDOVERS,
    Handover,
    Identity,
    Roster,
    load_handovers,
    save_handovers,
)
from hortus.runtime.errors import HortusError
from hortus.runtime.locks import held
from hortus.runtime.names import SERVER


@contextmanager
def sole(files: SiteFiles | ServerFiles) -> Iterator[None]:
    """Holds a party's lock: only one process at a time signs in its name for long.

    Raises:
        HortusError: Another process holds it.
    """
    is_site = isinstance(files, SiteFiles)
    taken = HortusError(
        f"{'an agent of this site' if is_site else 'a server of this folder'} is running",
        where=str(files.directory),
        remedy=f"Stop hortus {'client' if is_site else 'server'} first.",
    )
    with held(files.lock, taken):
        yield


def replace_identity(
    files: SiteFiles | ServerFiles, name: str, head: Callable[[Identity], tuple[int, str]]
) -> Identity:
    """Gives a party a new identity key, or completes a change that was interrupted.

    The old key signs which key follows it, then it is deleted. Others use the old key until
    they have pinned the new card.

    Args:
        files: The party's folder; the caller holds its lock.
        name: The party's.
        head: Number and hash of the last ledger entry that the old key has signed.
    """
    if not _is_begun(files, name):
        _hand_over(files, name, head)
    if files.next_identity.exists():
        files.next_identity.replace(files.identity)
    identity = Identity.load(files.identity, name)
    roster = Roster.load(files.roster)
    roster.with_key(name, identity.public_key_bytes, identity.handovers).save(files.roster)
    return identity


def _hand_over(
    files: SiteFiles | ServerFiles, name: str, head: Callable[[Identity], tuple[int, str]]
) -> None:
    """Makes the next key and lets the current one sign for it; this cannot be undone."""
    files.next_identity.unlink(missing_ok=True)
    following = Identity.create(name, files.next_identity)
    identity = Identity.load(files.identity, name)
    handover = Handover.make(identity, following.public_key_bytes, *head(identity))
    save_handovers(files.identity.with_name(HANDOVERS), (*identity.handovers, handover))


def _is_begun(files: SiteFiles | ServerFiles, name: str) -> bool:
    """Whether a hand-over is signed that key or roster do not follow yet."""
    handovers = load_handovers(files.identity.with_name(HANDOVERS))
    if not handovers:
        return False
    return Roster.load(files.roster).key_of(name).hex() != handovers[-1].successor


def rotate_server_identity(files: ServerFiles, now: datetime) -> ServerCard:
    """Gives the server a new identity key, or completes a change that was interrupted.

    What the old key has countersigned stays good: each site's roster keeps the hand-over.

    Args:
        files: The server's folder; no server may be running.
        now: The time, with its zone.

    Returns:
        The server's new card, for every site to pin.

    Raises:
        HortusError: A server is running.
    """
    with sole(files):
        replace_identity(files, SERVER, lambda _: (0, "0" * 64))
        return write_server_card(files, now)
