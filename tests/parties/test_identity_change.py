"""The server's keys and the TLS authority are replaced, wherever the change is cut short."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
from parties.test_joining import NOW, Parties, parties, shake_hands

from hortus.parties.authority import begin_change, finish_change
from hortus.parties.card import ServerCard
from hortus.parties.folders import ServerFiles
from hortus.parties.identity_change import rotate_server_identity, sole
from hortus.parties.joining import admit, pin
from hortus.parties.renewal import rotate_tls, write_server_card
from hortus.protocol.identity import Handover, Identity, Roster
from hortus.runtime.errors import HortusError, ProtocolError, UsageError
from hortus.runtime.names import SERVER

__all__ = ["parties"]
SITES = ("ash", "birch", "cedar")
WRITTEN = 7  # files, by the beginning and by the end of a change of authority


@contextmanager
def power_cut(patch: pytest.MonkeyPatch, survived: int) -> Iterator[list[int]]:
    """Only so many files are still written; each is synced twice: itself, and its name."""
    left = [2 * survived]

    def until_power_fails(descriptor: int, sync: Callable[[int], None] = os.fsync) -> None:
        if not left[0]:
            raise OSError("power cut")
        left[0] -= 1
        sync(descriptor)

    with patch.context() as limited, suppress(HortusError):
        limited.setattr("hortus.runtime.files.os.fsync", until_power_fails)
        yield left


def follow(parties: Parties, *sites: str) -> None:
    for site in sites:
        pin(parties.sites[site], parties.servers_card, [], NOW)


def connected(parties: Parties) -> list[str]:
    """The sites whose TLS files and the server's accept each other, as they are now."""
    found = []
    for site, files in parties.sites.items():
        with suppress(OSError):  # which ssl's errors are
            shake_hands(files, parties.server)
            found.append(site)
    return found


def test_no_site_is_locked_out_while_the_authority_changes(parties: Parties) -> None:
    parties.meet()
    with pytest.raises(UsageError, match="the folder has no next authority"):
        finish_change(parties.server, NOW)
    former = parties.server.tls.authority.read_bytes()
    begin_change(parties.server, NOW)
    assert connected(parties) == list(SITES)
    follow(parties, "ash")
    # A site that changes its own key meanwhile gets a certificate of the next authority.
    admit(parties.server, [rotate_tls(parties.sites["birch"], NOW)], NOW)
    follow(parties, "birch")
    assert connected(parties) == list(SITES)
    finish_change(parties.server, NOW)
    assert connected(parties) == ["ash", "birch"], "who has not followed waits for the card"
    follow(parties, "birch", "cedar")
    assert connected(parties) == list(SITES)
    trusted = [parties.sites[site].tls.authority.read_bytes() for site in SITES]
    now = (parties.server.authority / "ca.crt").read_bytes()
    assert former not in (now, trusted[1], trusted[2])
    assert trusted == [former + now, now, now]
    assert parties.server.tls.authority.read_bytes() == now
    assert not parties.server.next_authority.exists()


@pytest.mark.parametrize("survived", range(WRITTEN + 1))
def test_a_change_of_authority_cut_short_is_completed_by_doing_it_again(
    parties: Parties, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    parties.meet()
    with power_cut(monkeypatch, survived):
        begin_change(parties.server, NOW)
    begin_change(parties.server, NOW)
    follow(parties, *SITES)
    with power_cut(monkeypatch, survived):
        finish_change(parties.server, NOW)
    if parties.server.is_changing_authority:
        finish_change(parties.server, NOW)
    write_server_card(parties.server, NOW)
    assert connected(parties) == list(SITES)
    follow(parties, *SITES)
    assert connected(parties) == list(SITES)


def signed_by(files: ServerFiles) -> Callable[[Roster], None]:
    signature = Identity.load(files.identity, SERVER).sign("session", b"question")
    return lambda roster: roster.verify_server("session", b"question", signature)


@pytest.mark.parametrize("survived", range(5))
def test_sites_follow_the_servers_new_identity_and_no_other(
    parties: Parties, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    parties.meet()
    before, former = parties.servers_card, signed_by(parties.server)
    roster = Roster.load(parties.sites["ash"].roster)
    with power_cut(monkeypatch, survived) as left:
        rotate_server_identity(parties.server, NOW)
    assert not left[0]
    rotate_server_identity(parties.server, NOW)
    present = signed_by(parties.server)
    former(roster)
    with pytest.raises(ProtocolError, match="does not match the key"):
        present(roster)
    follow(parties, "ash")
    followed = Roster.load(parties.sites["ash"].roster)
    present(followed)
    with pytest.raises(ProtocolError, match="does not match the key"):
        former(followed)
    assert followed.server_keys()[0] == roster.server
    assert followed.sites == roster.sites
    with pytest.raises(UsageError, match="older than the key pinned"):
        pin(parties.sites["ash"], before, [], NOW)
    assert not parties.server.next_identity.exists()


def test_a_stranger_does_not_follow_the_server(parties: Parties) -> None:
    parties.meet()
    stranger, card = Identity.generate(SERVER), parties.servers_card
    own = Handover.make(stranger, stranger.public_key_bytes, 0, "0" * 64)
    lifted = own.model_copy(update={"key": card.identity})
    content = {
        "authority": card.authority,
        "aggregation": card.aggregation,
        "superlink": card.superlink,
        "members": card.members,
    }
    forged = ServerCard.make(stranger, NOW, **content)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a different server than the one pinned"):
        pin(parties.sites["ash"], forged, [], NOW)
    with pytest.raises(UsageError, match="not signed by the key that it is from"):
        Identity(SERVER, stranger._key, (lifted,))


def test_a_running_server_keeps_its_key(parties: Parties) -> None:
    with sole(parties.server), pytest.raises(HortusError, match="a server of this folder is run"):
        rotate_server_identity(parties.server, datetime.now(UTC))
