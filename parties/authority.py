"""The consortium's TLS authority gives way to a new one, with no moment at which a site is locked out.

First both are trusted: sites get certificates of the next authority, the server keeps its own of the
present one. When every site has pinned the server's card, the server takes a certificate of the next
authority, which is then the only one; sites pin its card once more when it suits them.
"""

import shutil
from datetime import datetime

from hortus.parties.card import ServerCard
from hortus.parties.folders import ServerFiles
from hortus.parties.renewal import certify_server, trusted, write_server_card
from hortus.protocol.certificates import certify_again, create_authority
from hortus.protocol.identity import Roster
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic, write_private


def begin_change(files: ServerFiles, now: datetime) -> ServerCard:
    """Makes the next authority, unless the folder has one, and certificates of it for all sites.

    Args:
        files: The server's folder.
        now: The time, with its zone.

    Returns:
        The server's card, for every site to pin.
    """
    if not files.is_changing_authority:
        shutil.rmtree(files.next_authority, ignore_errors=True)  # one that was interrupted
        create_authority(files.next_authority, now)
    write_atomic(files.tls.authority, trusted(files))
    for site in Roster.load(files.roster).sites:
        issued = files.issued(site)
        again = certify_again(files.next_authority, issued.read_bytes(), site, now)
        write_atomic(issued, again)
    return write_server_card(files, now)


def finish_change(files: ServerFiles, now: datetime) -> ServerCard:
    """Puts the next authority in place of the present one, which nobody trusts from then on.

    A site that has not pinned the server's card since the change was begun cannot connect until it
    does.

    Args:
        files: The server's folder.
        now: The time, with its zone.

    Returns:
        The server's card, for every site to pin.

    Raises:
        UsageError: No change was begun.
    """
    if not files.is_changing_authority:
        raise UsageError(
            "the folder has no next authority",
            where=str(files.next_authority),
            remedy="hortus rotate authority SERVER_DIR makes it. If the change was finished and only the card "
            "is lost: hortus roster card SERVER_DIR",
        )
    certificate = (files.next_authority / "ca.crt").read_bytes()
    certify_server(files, files.next_authority, certificate, now)
    write_private(files.authority / "ca.key", (files.next_authority / "ca.key").read_bytes())
    write_atomic(files.authority / "ca.crt", certificate)
    card = write_server_card(files, now)
    (files.next_authority / "ca.crt").unlink()
    shutil.rmtree(files.next_authority)
    return card
