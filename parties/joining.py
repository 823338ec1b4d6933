"""How parties come to a consortium, how they pin one another's cards, and how they leave it.

The server takes up the sites' cards, which lets them in, and its own card then holds their certificates. Each
site pins the server's card and the other sites': nobody trusts a key because the server does.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from hortus.parties.card import ServerCard, SiteCard
from hortus.parties.folders import (
    ServerFiles,
    SiteConfig,
    SiteFiles,
)
from hortus.parties.renewal import replace_certificate, write_server_card
from hortus.protocol.certificates import (
    UNREADABLE,
    certified_key,
    certify,
    check_request,
    flower_public_key,
    is_certificate_of,
)
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.names import SERVER


def take_up(roster: Roster, cards: Iterable[SiteCard]) -> Roster:
    """Returns a roster with the keys of some cards, already checked, added or replaced.

    Raises:
        UsageError: A name or key is another's, or a key replaces one without a hand-over from it.
    """
    for card in cards:
        if card.site in roster.sites:
            _check_succession(card.site, card, roster)
        roster = roster.with_key(card.site, card.key, card.handovers)
    return roster


def admit(files: ServerFiles, cards: Sequence[SiteCard], now: datetime) -> ServerCard:
    """Adds sites to the server's roster and issues TLS certificates; adds none of them if a card is wrong.

    Args:
        files: The server's folder.
        cards: The sites' cards; that of a site which is in already renews its keys.
        now: The time, with its zone.

    Returns:
        The server's card, for every site to pin: it holds the certificates.

    Raises:
        UsageError: A card was altered or has expired; or its name or one of its keys is taken.
    """
    for card in cards:
        card.check(now)
    roster = take_up(Roster.load(files.roster), cards)
    _check_distinct(files, roster, cards)
    issuer = files.next_authority if files.is_changing_authority else files.authority
    for card in cards:
        write_atomic(files.flower_key(card.site), card.flower.encode())
        issued = files.issued(card.site)
        if not _is_issued(issued, card):
            write_atomic(issued, certify(issuer, card.request, card.site, now))
    roster.save(files.roster)
    return write_server_card(files, now)


def pin(
    files: SiteFiles, server: ServerCard | None, cards: Sequence[SiteCard], now: datetime
) -> None:
    """Pins the keys of other parties at a site, and takes its own certificate from the server's card.

    Args:
        files: The site's folder.
        server: The server's card; needed the first time.
        cards: Other sites' cards; that of a site which is in already renews its keys.
        now: The time, with its zone.

    Raises:
        UsageError: A card was altered or has expired; a name or key is taken; or the server's key is
            another than the one pinned.
    """
    for card in (*cards, *([server] if server else ())):
        card.check(now)
    own = SiteConfig.load(files.config).site
    key = Identity.load(files.identity, own).public_key_bytes
    if files.roster.exists():
        roster = Roster.load(files.roster)
    elif server is not None:
        roster = Roster({own: key}, server.key)
    else:
        raise UsageError(
            "this site has not pinned the server yet",
            where=str(files.roster),
            remedy=f"Name {SERVER}.card.yaml among the cards.",
        )
    if server is not None:
        _check_succession(SERVER, server, roster)
        roster = roster.with_key(SERVER, server.key, server.handovers)
    roster = take_up(roster, cards)
    if server is not None:
        install(files, server)
    roster.save(files.roster)


def install(files: SiteFiles, server: ServerCard) -> None:
    """Keeps the server's card, already checked, and takes up what it has for this site.

    That is a certificate, and the knowledge that the server has the next Flower key.

    Raises:
        UsageError: The certificate is for a key that this site does not have.
    """
    own = SiteConfig.load(files.config).site
    membership = server.members.get(own)
    if membership is not None:
        certificate = membership.certificate.encode()
        keys = (files.tls.key, files.tls.next_key)
        if not any(is_certificate_of(certificate, key) for key in keys):
            raise UsageError(
                "the server's card has a certificate for a key that this site does not have",
                where=own,
                remedy=f"Give the server {files.card(own)}, as it is now.",
            )
        replace_certificate(files.tls, certificate, server.authority.encode())
        following = files.next_flower_key
        if following.exists() and membership.flower == flower_public_key(following):
            following.replace(files.flower_key)
    server.save(files.card(SERVER))


def remove(files: SiteFiles | ServerFiles, name: str) -> None:
    """Takes a site out of a party's roster: its key is refused from the next session on.

    Raises:
        UsageError: There is no such site, or it is this one.
    """
    roster = Roster.load(files.roster)
    if name not in roster.sites:
        known = ", ".join(roster.sites) or "nobody"
        raise UsageError(f"the roster has no site {name!r}, only {known}", where=str(files.roster))
    if isinstance(files, SiteFiles) and SiteConfig.load(files.config).site == name:
        raise UsageError("a site does not remove itself", where=str(files.roster))
    sites = {site: key for site, key in roster.sites.items() if site != name}
    handovers = {site: chain for site, chain in roster.handovers.items() if site != name}
    Roster(sites, roster.server, handovers).save(files.roster)
    if isinstance(files, ServerFiles):
        files.flower_key(name).unlink(missing_ok=True)
        files.issued(name).unlink(missing_ok=True)


def _check_succession(name: str, card: SiteCard | ServerCard, roster: Roster) -> None:
    """Refuses a card whose key does not follow the one that is pinned under its name."""
    pinned, known = roster.key_of(name), roster.handovers.get(name, ())
    if pinned == card.key or pinned.hex() in {handover.key for handover in card.handovers}:
        if card.handovers and card.handovers[: len(known)] != known:
            raise UsageError("the card's hand-overs contradict those pinned before", where=name)
        return
    if card.identity in {handover.key for handover in known}:
        raise UsageError(
            "the card is older than the key pinned here",
            where=name,
            remedy="Ask its owner for the current one.",
        )
    if name == SERVER:
        raise UsageError(
            "the card belongs to a different server than the one pinned here",
            where=SERVER,
            remedy="If the consortium has a new server and you have compared its fingerprint, remove "
            "roster.yaml and add every card again.",
        )
    raise UsageError(
        "the name is taken: another key is pinned under it and has not handed over to this key",
        where=name,
        remedy="If the site has lost its key and you have compared the new fingerprint, remove the site first "
        "(hortus roster remove).",
    )


def _check_distinct(files: ServerFiles, roster: Roster, cards: Sequence[SiteCard]) -> None:
    """Refuses a TLS or Flower key that two sites have: the server would take one for the other."""
    owners: dict[bytes, str] = {}
    renewed = {card.site: card for card in cards}
    for site in roster.sites:
        if site in renewed:
            keys = [check_request(renewed[site].request, site), _flower_bytes(renewed[site])]
        else:
            issued = files.issued(site)
            keys = [
                certified_key(issued.read_bytes(), str(issued)),
                _ssh_bytes(files.flower_key(site).read_bytes(), site),
            ]
        for key in keys:
            if owners.setdefault(key, site) != site:
                raise UsageError(f"its TLS or Flower key is also {owners[key]}'s", where=site)


def _flower_bytes(card: SiteCard) -> bytes:
    return _ssh_bytes(card.flower.encode(), card.site)


def _ssh_bytes(text: bytes, site: str) -> bytes:
    try:
        key = load_ssh_public_key(text)
    except UNREADABLE as error:
        raise UsageError("its Flower key is not an OpenSSH public key", where=site) from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise UsageError("its Flower key is not an elliptic curve key", where=site)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_issued(issued: Path, card: SiteCard) -> bool:
    """Whether the site has a certificate for the key of its card already."""
    if not issued.exists():
        return False
    present = certified_key(issued.read_bytes(), str(issued))
    return present == check_request(card.request, card.site)
