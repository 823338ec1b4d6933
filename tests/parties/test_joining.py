"""Parties come together by cards, each with keys that it alone has made, and leave again."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.fingerprint import roster_words
from hortus.parties.folders import (
    Consortium,
    ServerConfig,
    ServerFiles,
    SiteConfig,
    SiteFiles,
    open_party,
)
from hortus.parties.founding import create_consortium, create_server, create_site
from hortus.parties.joining import admit, pin, remove
from hortus.parties.renewal import write_server_card, write_site_card
from hortus.protocol.certificates import create_flower_key, create_request
from hortus.protocol.identity import Handover, Identity, Roster
from hortus.protocol.lifetimes import CARD
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER as SERVER_NAME

SITES = ("ash", "birch", "cedar")
POLICY = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
SERVER = ServerConfig(aggregation="sums.example.org:9443", superlink="[fd00::1]:9092")
NOW = datetime.now(UTC)


def make(directory: Path) -> None:
    data = {site: Path(f"{site}.csv") for site in SITES}
    create_consortium(directory, data, dict.fromkeys(SITES, POLICY), SERVER, datetime.now(UTC))


class Parties:
    """Three sites and a server, each with a folder of its own, that know nobody yet."""

    def __init__(self, directory: Path) -> None:
        self.server = ServerFiles(directory / "server")
        create_server(self.server, SERVER, NOW)
        self.sites = {name: SiteFiles(directory / name) for name in SITES}
        for name, files in self.sites.items():
            create_site(files, SiteConfig(site=name, data=Path("x.csv")), POLICY, NOW)

    def card(self, site: str) -> SiteCard:
        card = load_card(self.sites[site].card(site))
        assert isinstance(card, SiteCard)
        return card

    @property
    def cards(self) -> list[SiteCard]:
        return [self.card(site) for site in self.sites]

    @property
    def servers_card(self) -> ServerCard:
        card = load_card(self.server.card)
        assert isinstance(card, ServerCard)
        return card

    def meet(self) -> None:
        admit(self.server, self.cards, NOW)
        for files in self.sites.values():
            pin(files, self.servers_card, self.cards, NOW)


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    return Parties(tmp_path)


def shake_hands(client: SiteFiles, server: ServerFiles) -> None:
    """Checks the site's and the server's TLS files against each other, both ways."""
    ends = []
    for purpose, tls in (
        (ssl.Purpose.SERVER_AUTH, client.tls),
        (ssl.Purpose.CLIENT_AUTH, server.tls),
    ):
        context = ssl.create_default_context(purpose, cafile=str(tls.authority))
        context.load_cert_chain(tls.certificate, tls.key)
        context.verify_mode = ssl.CERT_REQUIRED
        ends.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    pair = (
        ends[0].wrap_bio(to_client, to_server, server_hostname="sums.example.org"),
        ends[1].wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in pair:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert pair[1].getpeercert()


def test_parties_that_exchange_cards_have_one_roster_and_shake_hands(parties: Parties) -> None:
    parties.meet()
    rosters = [Roster.load(f.roster) for f in (parties.server, *parties.sites.values())]
    assert len({roster_words(roster) for roster in rosters}) == 1
    assert set(rosters[0].sites) == set(SITES)
    for files in parties.sites.values():
        shake_hands(files, parties.server)


def test_private_keys_stay_where_they_were_made(parties: Parties) -> None:
    parties.meet()
    keys = [
        *(f.identity for f in (parties.server, *parties.sites.values())),
        *(f.tls.key for f in (parties.server, *parties.sites.values())),
        *(f.flower_key for f in parties.sites.values()),
        *(f.dataset_key for f in parties.sites.values()),
        parties.server.authority / "ca.key",
    ]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    secrets = [path.read_bytes().strip() for path in keys]
    everything = [p for p in parties.server.directory.parent.rglob("*") if p.is_file()]
    for path in set(everything) - set(keys):
        assert not any(secret in path.read_bytes() for secret in secrets), path


def test_a_site_needs_the_servers_card_first_and_its_certificate_may_come_later(
    parties: Parties,
) -> None:
    ash = parties.sites["ash"]
    with pytest.raises(UsageError, match="has not pinned the server"):
        pin(ash, None, [parties.card("birch")], NOW)
    pin(ash, parties.servers_card, [parties.card("birch")], NOW)
    assert not ash.tls.certificate.exists()
    admit(parties.server, parties.cards, NOW)
    pin(ash, parties.servers_card, [], NOW)
    shake_hands(ash, parties.server)
    assert set(Roster.load(ash.roster).sites) == {"ash", "birch"}


@pytest.mark.parametrize("field", ["site", "identity", "flower", "request", "expires"])
def test_an_altered_card_is_refused_by_everybody(parties: Parties, field: str) -> None:
    path = parties.sites["birch"].card("birch")
    other = yaml.safe_load(parties.sites["cedar"].card("cedar").read_text())
    fields = yaml.safe_load(path.read_text())
    fields[field] = "2999-01-01" if field == "expires" else other[field]
    path.write_text(yaml.safe_dump(fields))
    before = parties.server.roster.read_bytes()
    with pytest.raises(UsageError, match="was altered"):
        admit(parties.server, parties.cards, NOW)
    assert parties.server.roster.read_bytes() == before
    with pytest.raises(UsageError, match="was altered"):
        pin(parties.sites["ash"], parties.servers_card, [parties.card("birch")], NOW)
    assert not parties.sites["ash"].roster.exists()


@pytest.mark.parametrize("field", ["authority", "aggregation", "members"])
def test_an_altered_servers_card_is_refused(parties: Parties, field: str) -> None:
    fields = yaml.safe_load(parties.server.card.read_text())
    forged = {"ash": {"certificate": "none", "flower": "none"}}
    fields[field] = forged if field == "members" else fields["superlink"]
    parties.server.card.write_text(yaml.safe_dump(fields))
    with pytest.raises(UsageError, match="was altered"):
        pin(parties.sites["ash"], parties.servers_card, [], NOW)


def test_an_expired_card_is_refused_and_made_anew(parties: Parties) -> None:
    late = NOW + CARD + timedelta(days=2)
    with pytest.raises(UsageError, match=r"ash: the card expired on .*hortus roster card"):
        admit(parties.server, parties.cards, late)
    for name, files in parties.sites.items():
        assert write_site_card(files, late).site == name
    admit(parties.server, parties.cards, late)
    with pytest.raises(UsageError, match="expired"):
        pin(parties.sites["ash"], parties.servers_card, [], late + CARD + timedelta(days=2))


def stranger(name: str, directory: Path, **like: str) -> SiteCard:
    """A card of somebody else under some name, perhaps with another site's key in it."""
    identity = Identity.generate(name)
    keys = {
        "flower": create_flower_key(directory / f"{name}-stranger.pem"),
        "request": create_request(name, directory / f"{name}-stranger.key"),
    }
    return SiteCard.make(identity, NOW, **keys | like)  # type: ignore[arg-type]


def test_a_taken_name_is_refused_by_everybody(parties: Parties, tmp_path: Path) -> None:
    parties.meet()
    impostor = stranger("birch", tmp_path)
    with pytest.raises(UsageError, match=r"birch: the name is taken.*hortus roster remove"):
        admit(parties.server, [impostor], NOW)
    for site in ("ash", "birch"):
        with pytest.raises(UsageError, match="birch: the name is taken"):
            pin(parties.sites[site], None, [impostor], NOW)
    remove(parties.sites["ash"], "birch")
    pin(parties.sites["ash"], None, [impostor], NOW)
    assert Roster.load(parties.sites["ash"].roster).sites["birch"] == impostor.key


def test_one_key_under_two_names_is_refused(parties: Parties, tmp_path: Path) -> None:
    parties.meet()
    birch = Identity.load(parties.sites["birch"].identity, "elm")
    twin = SiteCard.make(
        birch,
        NOW,
        flower=create_flower_key(tmp_path / "f.pem"),
        request=create_request("elm", tmp_path / "t.key"),
    )
    with pytest.raises(UsageError, match="the key is also birch's"):
        admit(parties.server, [twin], NOW)
    with pytest.raises(UsageError, match="the key is also birch's"):
        pin(parties.sites["ash"], None, [twin], NOW)


def test_a_taken_flower_or_tls_key_is_refused_by_the_server(
    parties: Parties, tmp_path: Path
) -> None:
    parties.meet()
    thief = stranger("elm", tmp_path, flower=parties.card("birch").flower)
    with pytest.raises(UsageError, match="elm: its TLS or Flower key is also birch's"):
        admit(parties.server, [thief], NOW)
    assert set(Roster.load(parties.server.roster).sites) == set(SITES)
    # A request for another name, signed by birch, does not pass either.
    thief = stranger("elm", tmp_path, request=parties.card("birch").request)
    with pytest.raises(UsageError, match="certificate signing request is for 'CN=birch'"):
        admit(parties.server, [thief], NOW)


def test_a_site_cannot_have_the_servers_name(parties: Parties, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the server's name"):
        create_site(
            SiteFiles(tmp_path / "s"), SiteConfig(site=SERVER_NAME, data=Path("x")), POLICY, NOW
        )
    with pytest.raises(UsageError, match="the server's name"):
        admit(parties.server, [stranger(SERVER_NAME, tmp_path)], NOW)


def test_another_server_is_not_taken_for_the_one_pinned(parties: Parties, tmp_path: Path) -> None:
    parties.meet()
    other = create_server(ServerFiles(tmp_path / "other"), SERVER, NOW)
    before = parties.sites["ash"].tls.authority.read_bytes()
    with pytest.raises(UsageError, match="a different server than the one pinned"):
        pin(parties.sites["ash"], other, [], NOW)
    assert parties.sites["ash"].tls.authority.read_bytes() == before


def test_a_removed_site_is_gone_from_roster_registration_and_certificates(
    parties: Parties,
) -> None:
    parties.meet()
    remove(parties.server, "birch")
    assert not parties.server.flower_key("birch").exists()
    assert set(write_server_card(parties.server, NOW).members) == {"ash", "cedar"}
    remove(parties.sites["ash"], "birch")
    assert set(Roster.load(parties.sites["ash"].roster).sites) == {"ash", "cedar"}
    with pytest.raises(UsageError, match="no site 'birch', only ash, cedar"):
        remove(parties.sites["ash"], "birch")
    with pytest.raises(UsageError, match="does not remove itself"):
        remove(parties.sites["ash"], "ash")


def test_a_key_that_was_handed_over_is_followed_and_the_older_card_is_refused(
    parties: Parties,
) -> None:
    parties.meet()
    before = parties.card("birch")
    old = Identity.load(parties.sites["birch"].identity, "birch")
    new, stolen = Identity.generate("birch"), Identity.generate("birch")
    chain = (Handover.make(old, new.public_key_bytes, 7, "ab" * 32),)
    keys = {"flower": before.flower, "request": before.request}
    forged = SiteCard.make(stolen, NOW, **keys, handovers=chain)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="do not lead to its present key"):
        pin(parties.sites["ash"], None, [forged], NOW)
    self_made = (Handover.make(stolen, stolen.public_key_bytes, 7, "ab" * 32),)
    lifted = self_made[0].model_copy(update={"key": old.public_key_bytes.hex()})
    forged = SiteCard.make(stolen, NOW, **keys, handovers=(lifted,))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not signed by the key that it is from"):
        pin(parties.sites["ash"], None, [forged], NOW)
    renewed = SiteCard.make(new, NOW, **keys, handovers=chain)  # type: ignore[arg-type]
    for files in (parties.sites["ash"], parties.sites["cedar"]):
        pin(files, None, [renewed], NOW)
    admit(parties.server, [renewed], NOW)
    roster = Roster.load(parties.sites["ash"].roster)
    assert roster.sites["birch"] == new.public_key_bytes
    assert roster.key_at("birch", 7) == old.public_key_bytes
    assert roster.key_at("birch", 8) == new.public_key_bytes
    with pytest.raises(UsageError, match="older than the key pinned"):
        pin(parties.sites["ash"], None, [before], NOW)
    longer = (Handover.make(old, new.public_key_bytes, 9, "ab" * 32),)
    rewritten = SiteCard.make(new, NOW, **keys, handovers=longer)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="contradict"):
        pin(parties.sites["ash"], None, [rewritten], NOW)


def test_a_server_that_nobody_can_dial_is_not_made(tmp_path: Path) -> None:
    config = ServerConfig(aggregation="0.0.0.0:9443", superlink="0.0.0.0:9092")
    with pytest.raises(UsageError, match=r"cannot dial '0.0.0.0'.*Set `host`"):
        create_server(ServerFiles(tmp_path / "s"), config, NOW)
    assert not (tmp_path / "s").exists()
    create_server(ServerFiles(tmp_path / "s"), config.model_copy(update={"host": "fd00::7"}), NOW)
    card = load_card(ServerFiles(tmp_path / "s").card)
    assert isinstance(card, ServerCard)
    assert card.aggregation == "[fd00::7]:9443"


def test_a_folder_says_whose_it_is(parties: Parties, tmp_path: Path) -> None:
    assert isinstance(open_party(tmp_path / "ash"), SiteFiles)
    assert isinstance(open_party(tmp_path / "server"), ServerFiles)
    with pytest.raises(UsageError, match="neither a site's folder"):
        open_party(tmp_path)


def test_a_card_file_that_is_none_names_the_field(parties: Parties) -> None:
    path = parties.sites["ash"].card("ash")
    path.write_text(path.read_text().replace("identity:", "idenity:"))
    with pytest.raises(UsageError, match="did you mean identity"):
        load_card(path)
    path.write_text("kind: something\n")
    with pytest.raises(UsageError, match=r"ash.card.yaml: .*kind"):
        load_card(path)


def test_the_servers_certificate_names_what_sites_dial(tmp_path: Path) -> None:
    make(tmp_path / "c")
    path = tmp_path / "c" / "server" / "tls" / "node.crt"
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "sums.example.org" in names.get_values_for_type(x509.DNSName)
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"fd00::1", "127.0.0.1", "::1"}


def test_every_roster_pins_the_servers_key_and_the_server_alone_holds_it(tmp_path: Path) -> None:
    make(tmp_path / "c")
    consortium = Consortium(tmp_path / "c")
    server = Identity.load(consortium.server.identity, SERVER_NAME)
    assert stat.S_IMODE(consortium.server.identity.stat().st_mode) == 0o600
    rosters = [consortium.server.roster, *(consortium.site(site).roster for site in SITES)]
    assert {Roster.load(path).server for path in rosters} == {server.public_key_bytes}


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        make(tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_a_consortium_cut_short_leaves_nothing_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("hortus.parties.founding.create_flower_key", full)
        with pytest.raises(OSError, match="disk full"):
            make(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    make(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c" / "sites").iterdir()) == list(SITES)
