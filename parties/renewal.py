"""What a party renews: its keys, their certificates, and the card that shows them to the others."""

from datetime import datetime
from pathlib import Path

from hortus.parties.card import Membership, ServerCard, SiteCard
from hortus.parties.folders import (
    ServerConfig,
    ServerFiles,
    SiteConfig,
    SiteFiles,
    TlsFiles,
    host_and_port,
)
from hortus.protocol.certificates import (
    certify,
    create_flower_key,
    create_request,
    flower_public_key,
    is_certificate_of,
    renew_request,
)
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic, write_private
from hortus.runtime.names import SERVER


def write_site_card(files: SiteFiles, now: datetime) -> SiteCard:
    """Writes a site's card again, for the keys that it has now, and returns it."""
    name = SiteConfig.load(files.config).site
    key = files.tls.next_key if files.tls.next_key.exists() else files.tls.key
    flower = files.next_flower_key if files.next_flower_key.exists() else files.flower_key
    identity = Identity.load(files.identity, name)
    card = SiteCard.make(
        identity,
        now,
        flower=flower_public_key(flower),
        request=renew_request(name, key),
        handovers=identity.handovers,
    )
    card.save(files.card(name))
    return card


def write_server_card(files: ServerFiles, now: datetime) -> ServerCard:
    """Writes the server's card again, with what it has for all members, and returns it."""
    config = ServerConfig.load(files.config)
    card = ServerCard.make(
        Identity.load(files.identity, SERVER),
        now,
        authority=files.tls.authority.read_text(encoding="ascii"),
        aggregation=config.dialled(config.aggregation),
        superlink=config.dialled(config.superlink),
        members={
            site: Membership(
                certificate=files.issued(site).read_text(encoding="ascii"),
                flower=files.flower_key(site).read_text(encoding="ascii"),
            )
            for site in Roster.load(files.roster).sites
        },
    )
    card.save(files.card)
    return card


def renew_server_certificate(files: ServerFiles, now: datetime) -> None:
    """Makes a TLS key for the server, and a certificate that names what sites dial."""
    certify_server(files, files.authority, trusted(files), now)


def trusted(files: ServerFiles) -> bytes:
    """Returns the certificates, PEM, of the authorities that the server and its sites trust."""
    folders = (files.authority, *((files.next_authority,) if files.is_changing_authority else ()))
    return b"".join((folder / "ca.crt").read_bytes() for folder in folders)


def certify_server(files: ServerFiles, authority: Path, trust: bytes, now: datetime) -> None:
    """Makes a TLS key for the server, with a certificate of an authority.

    Args:
        files: The server's folder.
        authority: The authority's folder.
        trust: The certificates, PEM, of those that sites' certificates may be from.
        now: The time, with its zone.

    Raises:
        UsageError: Sites cannot dial the server's address.
    """
    config = ServerConfig.load(files.config)
    told = (config.dialled(address) for address in (config.aggregation, config.superlink))
    hosts = {host_and_port(address)[0] for address in told}
    for host in hosts & {"0.0.0.0", "::"}:  # noqa: S104 - refused, not bound
        raise UsageError(
            f"sites cannot dial {host!r}",
            where=str(files.config),
            remedy="Set `host` to the name or address that they reach the server at.",
        )
    request = create_request(SERVER, files.tls.next_key)
    local = {"localhost", "127.0.0.1", "::1"}
    certificate = certify(authority, request, SERVER, now, hosts=sorted(hosts | local))
    replace_certificate(files.tls, certificate, trust)


def rotate_tls(files: SiteFiles, now: datetime) -> SiteCard:
    """Makes the next TLS key of a site, unless it has one, and a card that requests a certificate.

    The present key stays in use until the server's card brings the certificate.
    """
    if not files.tls.next_key.exists():
        create_request(SiteConfig.load(files.config).site, files.tls.next_key)
    return write_site_card(files, now)


def rotate_flower(files: SiteFiles, now: datetime) -> SiteCard:
    """Makes the next Flower key of a site, unless it has one, and a card with it.

    The present key stays in use until the server's card says that the server has the next one.
    """
    if not files.next_flower_key.exists():
        create_flower_key(files.next_flower_key)
    return write_site_card(files, now)


def replace_certificate(tls: TlsFiles, certificate: bytes, authority: bytes) -> None:
    """Puts a certificate in place, with its key if that is the next one.

    If it is interrupted, the next key stays where it is, so that running it again completes it.
    """
    renews = is_certificate_of(certificate, tls.next_key)
    if renews:
        write_private(tls.key, tls.next_key.read_bytes())
    write_atomic(tls.certificate, certificate)
    write_atomic(tls.authority, authority)
    if renews:
        tls.next_key.unlink()
