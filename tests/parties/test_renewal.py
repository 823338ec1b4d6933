"""Keys and certificates change while the present ones stay in use until their successors are known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hortus.parties.folders import Consortium, ServerConfig, SiteFiles
from hortus.parties.founding import create_consortium
from hortus.parties.joining import admit, pin
from hortus.parties.renewal import (
    renew_server_certificate,
    replace_certificate,
    rotate_flower,
    rotate_tls,
    write_server_card,
    write_site_card,
)
from hortus.protocol.certificates import is_certificate_of
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError

NOW = datetime.now(UTC)
ADDRESSES = ServerConfig(aggregation="127.0.0.1:1", superlink="[::1]:2", host="sums.example.org")


@pytest.fixture
def parties(tmp_path: Path) -> Consortium:
    policy = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
    data = {site: Path("x.csv") for site in ("ash", "birch")}
    return create_consortium(tmp_path / "c", data, dict.fromkeys(data, policy), ADDRESSES, NOW)


@pytest.fixture
def ash(parties: Consortium) -> SiteFiles:
    return parties.site("ash")


def pinned(parties: Consortium, ash: SiteFiles) -> None:
    """The way of a site's card to the server, and of the server's card back."""
    pin(ash, admit(parties.server, [write_site_card(ash, NOW)], NOW), [], NOW)


@pytest.mark.parametrize("what", ["tls", "flower"])
def test_a_key_stays_in_use_until_the_servers_card_brings_word_of_the_next(
    parties: Consortium, ash: SiteFiles, what: str
) -> None:
    rotate = {"tls": rotate_tls, "flower": rotate_flower}[what]
    present = {"tls": ash.tls.key, "flower": ash.flower_key}[what]
    following = {"tls": ash.tls.next_key, "flower": ash.next_flower_key}[what]
    before = present.read_bytes()
    rotate(ash, NOW)
    successor = following.read_bytes()
    rotate(ash, NOW)
    assert following.read_bytes() == successor, "asked for twice, it is one next key"
    assert (present.read_bytes(), successor != before) == (before, True)
    pinned(parties, ash)
    assert present.read_bytes() == successor
    assert not following.exists()
    pinned(parties, ash)
    assert present.read_bytes() == successor, "pinned twice, it is the same"


@pytest.mark.parametrize("step", ["write_atomic", "unlink"])
def test_a_change_of_certificate_that_is_interrupted_is_completed_by_the_same_again(
    parties: Consortium, ash: SiteFiles, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_tls(ash, NOW)
    card = admit(parties.server, [write_site_card(ash, NOW)], NOW)
    certificate, authority = card.members["ash"].certificate.encode(), card.authority.encode()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "unlink":
            patch.setattr(Path, "unlink", fail)
        else:
            patch.setattr("hortus.parties.renewal.write_atomic", fail)
        with pytest.raises(OSError, match="No space"):
            replace_certificate(ash.tls, certificate, authority)
    replace_certificate(ash.tls, certificate, authority)
    assert is_certificate_of(ash.tls.certificate.read_bytes(), ash.tls.key)
    assert not ash.tls.next_key.exists()


def test_the_servers_new_certificate_names_what_sites_dial(parties: Consortium) -> None:
    tls = parties.server.tls
    before = tls.certificate.read_bytes()
    renew_server_certificate(parties.server, NOW + timedelta(days=1))
    assert tls.certificate.read_bytes() != before
    certificate = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "sums.example.org" in names.get_values_for_type(x509.DNSName)
    assert is_certificate_of(tls.certificate.read_bytes(), tls.key)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_an_address_that_nobody_can_dial_gets_no_certificate(
    parties: Consortium, address: str
) -> None:
    config = ServerConfig(aggregation=f"{address}:1", superlink="127.0.0.1:2")
    config.save(parties.server.config)
    before = parties.server.tls.certificate.read_bytes()
    with pytest.raises(UsageError, match="sites cannot dial"):
        renew_server_certificate(parties.server, NOW)
    assert parties.server.tls.certificate.read_bytes() == before


def test_the_servers_card_has_a_line_for_each_member(parties: Consortium) -> None:
    card = write_server_card(parties.server, NOW)
    card.check(NOW)
    assert card.members.keys() == {"ash", "birch"}
    assert (card.aggregation, card.superlink) == ("sums.example.org:1", "sums.example.org:2")
