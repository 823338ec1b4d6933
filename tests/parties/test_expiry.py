"""Certificates warn before they end, and can be renewed without a gap."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.expiry import DailyWarning, Urgency, expiries, warn_of_expiry
from hortus.parties.folders import Consortium, ServerConfig, SiteFiles
from hortus.parties.founding import create_consortium
from hortus.parties.joining import admit, pin
from hortus.parties.renewal import renew_server_certificate, rotate_flower, rotate_tls
from hortus.protocol.certificates import flower_public_key, is_certificate_of
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
END = NOW - timedelta(hours=1) + timedelta(days=825)
LOGGER = logging.getLogger("expiry")


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    sites = ("ash", "birch")
    policy = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
    server = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
    data = dict.fromkeys(sites, Path("x.csv"))
    return create_consortium(tmp_path / "c", data, dict.fromkeys(sites, policy), server, NOW)


@pytest.mark.parametrize(
    ("days", "urgency"),
    [
        (61, Urgency.FAR),
        (59, Urgency.NOTICE),
        (29, Urgency.SOON),
        (6, Urgency.URGENT),
        (-1, Urgency.EXPIRED),
    ],
)
def test_a_certificate_grows_urgent(consortium: Consortium, days: int, urgency: Urgency) -> None:
    own, authority = expiries(consortium.site("ash"))
    now = END - timedelta(days=days)
    assert own.expires == END
    assert own.urgency(now) is urgency
    assert (own.warning(now) is None) is (urgency is Urgency.FAR)
    assert authority.urgency(now) is Urgency.FAR


def test_a_start_warns_and_an_expired_certificate_ends_it(
    consortium: Consortium, caplog: pytest.LogCaptureFixture
) -> None:
    files = consortium.site("ash")
    warn_of_expiry(files, END - timedelta(days=100), LOGGER)
    assert not caplog.records
    warn_of_expiry(files, END - timedelta(days=20, hours=1), LOGGER)
    assert "expires in 20 days" in caplog.text
    assert "hortus rotate tls" in caplog.text
    with pytest.raises(UsageError, match=r"node.crt: .*expired on .*hortus rotate tls"):
        warn_of_expiry(files, END + timedelta(days=1), LOGGER)
    files.tls.certificate.unlink()
    with pytest.raises(UsageError, match="has not issued"):
        warn_of_expiry(files, NOW, LOGGER)


def test_an_agent_that_runs_for_years_warns_every_day(
    consortium: Consortium, caplog: pytest.LogCaptureFixture
) -> None:
    """And goes on when the certificate has ended: the operator may be renewing it."""
    daily = DailyWarning(consortium.site("ash"), LOGGER, NOW)
    day = END - timedelta(days=100)
    while day < END + timedelta(days=2):
        daily.look(day)
        day += timedelta(hours=8)
    told = [record.getMessage() for record in caplog.records]
    own = [line for line in told if line.startswith("the TLS certificate of this site")]
    assert len(own) == 62
    assert "in 59 days" in own[0]
    assert "expired on" in own[-1]


def test_the_server_sees_the_ends_of_all_it_has_issued(consortium: Consortium) -> None:
    whose = [expiry.whose for expiry in expiries(consortium.server)]
    assert whose == ["the server", "the consortium's authority", "ash", "birch"]


def servers_card(consortium: Consortium) -> ServerCard:
    card = load_card(consortium.server.card)
    assert isinstance(card, ServerCard)
    return card


def sites_card(files: SiteFiles, name: str) -> SiteCard:
    card = load_card(files.card(name))
    assert isinstance(card, SiteCard)
    return card


def test_a_site_renews_its_tls_key_with_no_gap(consortium: Consortium) -> None:
    files, later = consortium.site("ash"), NOW + timedelta(days=800)
    before = (files.tls.key.read_bytes(), files.tls.certificate.read_bytes())
    rotate_tls(files, later)
    asked = files.tls.next_key.read_bytes()
    rotate_tls(files, later)
    assert files.tls.next_key.read_bytes() == asked, "given twice, it asks for one key"
    pin(files, servers_card(consortium), [], NOW)
    assert (files.tls.key.read_bytes(), files.tls.certificate.read_bytes()) == before
    card = admit(consortium.server, [sites_card(files, "ash")], later)
    pin(files, card, [], later)
    assert files.tls.key.read_bytes() == asked
    assert not files.tls.next_key.exists()
    assert is_certificate_of(files.tls.certificate.read_bytes(), files.tls.key)
    own, _ = expiries(files)
    assert own.expires == END + timedelta(days=800)


def test_a_renewal_cut_short_is_completed_by_doing_it_again(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = consortium.site("ash")
    card = admit(consortium.server, [rotate_tls(files, NOW)], NOW)

    def cut(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("hortus.parties.renewal.write_atomic", cut)
        with pytest.raises(OSError, match="power cut"):
            pin(files, card, [], NOW)
    with pytest.raises(UsageError, match="a renewal was interrupted"):
        warn_of_expiry(files, NOW, LOGGER)
    pin(files, card, [], NOW)
    assert is_certificate_of(files.tls.certificate.read_bytes(), files.tls.key)
    assert not files.tls.next_key.exists()


def test_a_flower_key_changes_when_the_server_has_the_next(consortium: Consortium) -> None:
    files = consortium.site("ash")
    before = flower_public_key(files.flower_key)
    card = rotate_flower(files, NOW)
    pin(files, servers_card(consortium), [], NOW)
    assert flower_public_key(files.flower_key) == before
    pin(files, admit(consortium.server, [card], NOW), [], NOW)
    assert flower_public_key(files.flower_key) == card.flower != before
    assert consortium.server.flower_key("ash").read_text() == card.flower
    assert not files.next_flower_key.exists()


def test_a_card_for_keys_that_a_site_does_not_have_is_refused(consortium: Consortium) -> None:
    files = consortium.site("ash")
    card = admit(consortium.server, [rotate_tls(files, NOW)], NOW)
    files.tls.next_key.unlink()
    with pytest.raises(UsageError, match="a key that this site does not have"):
        pin(files, card, [], NOW)


def test_the_server_renews_its_own(consortium: Consortium) -> None:
    tls = consortium.server.tls
    before = tls.certificate.read_bytes()
    renew_server_certificate(consortium.server, NOW + timedelta(days=800))
    assert tls.certificate.read_bytes() != before
    assert is_certificate_of(tls.certificate.read_bytes(), tls.key)
