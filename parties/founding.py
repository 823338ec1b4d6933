"""How a party starts: with its folder, keys made on its own machine, and its card."""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from hortus.parties.card import ServerCard, SiteCard
from hortus.parties.folders import (
    Consortium,
    ServerConfig,
    ServerFiles,
    SiteConfig,
    SiteFiles,
)
from hortus.parties.joining import admit, install, take_up
from hortus.parties.renewal import renew_server_certificate, write_server_card, write_site_card
from hortus.protocol.certificates import (
    create_authority,
    create_flower_key,
    create_request,
)
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_private
from hortus.runtime.names import SERVER


def create_site(files: SiteFiles, config: SiteConfig, policy: Policy, now: datetime) -> SiteCard:
    """Makes a site's folder with keys of its own, and its card.

    Args:
        files: The folder; must not exist yet.
        config: Name and data.
        policy: What the site allows.
        now: The time, with its zone.

    Raises:
        UsageError: The folder exists, or the name cannot be a site's.
    """
    if config.site == SERVER:
        raise UsageError("a site cannot have the server's name", where=SERVER)
    with _made_whole(files.directory) as directory:
        draft = SiteFiles(directory)
        Identity.create(config.site, draft.identity)
        create_request(config.site, draft.tls.key)
        create_flower_key(draft.flower_key)
        write_private(draft.dataset_key, secrets.token_bytes(32))
        policy.save(draft.policy)
        config.save(draft.config)
        return write_site_card(draft, now)


def create_server(files: ServerFiles, config: ServerConfig, now: datetime) -> ServerCard:
    """Makes the server's folder with keys and a TLS authority of its own, and its card.

    Args:
        files: The folder; must not exist yet.
        config: Addresses.
        now: The time, with its zone.

    Raises:
        UsageError: The folder exists, or an address is not valid.
    """
    with _made_whole(files.directory) as directory:
        draft = ServerFiles(directory)
        identity = Identity.create(SERVER, draft.identity)
        create_authority(draft.authority, now)
        config.save(draft.config)
        renew_server_certificate(draft, now)
        Roster({}, identity.public_key_bytes).save(draft.roster)
        return write_server_card(draft, now)


def create_consortium(
    directory: Path,
    data: Mapping[str, Path],
    policies: Mapping[str, Policy],
    server: ServerConfig,
    now: datetime,
) -> Consortium:
    """Makes the folders of all parties of a consortium on one machine, to try it out.

    Args:
        directory: Where; must not exist yet.
        data: Each site's records.
        policies: Each site's policy.
        server: The server's addresses.
        now: Start of the certificates' validity.

    Raises:
        UsageError: The folder exists.
    """
    with _made_whole(directory) as partial:
        consortium = Consortium(partial)
        create_server(consortium.server, server, now)
        cards = [
            create_site(
                consortium.site(site), SiteConfig(site=site, data=data[site]), policies[site], now
            )
            for site in sorted(data)
        ]
        card = admit(consortium.server, cards, now)
        roster = take_up(Roster({}, card.key), cards)
        for site in data:
            install(consortium.site(site), card)
            roster.save(consortium.site(site).roster)
    return Consortium(directory)


def require_new(directory: Path) -> None:
    """Raises UsageError if a folder exists already."""
    if directory.exists():
        raise UsageError(
            "the folder exists already", where=str(directory), remedy="Choose another."
        )


@contextmanager
def _made_whole(directory: Path) -> Iterator[Path]:
    """Makes a folder under another name until it is complete, so that it exists entirely or not at all."""
    require_new(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(directory)
