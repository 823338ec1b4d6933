import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from hortus.protocol.consortium import Consortium, ServerConfig, create_consortium
from hortus.protocol.errors import UsageError
from hortus.protocol.identity import SERVER as SERVER_NAME
from hortus.protocol.identity import Roster, SiteIdentity
from hortus.protocol.policy import Budget, Policy

SITES = ("ash", "birch", "cedar")
POLICY = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
SERVER = ServerConfig(aggregation="sums.example.org:9443", superlink="[fd00::1]:9092")


def make(directory: Path) -> None:
    data = {site: Path(f"{site}.csv") for site in SITES}
    create_consortium(directory, data, dict.fromkeys(SITES, POLICY), SERVER, datetime.now(UTC))


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
    server = SiteIdentity.load(consortium.server.identity, SERVER_NAME)
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
        patch.setattr("hortus.protocol.consortium.create_flower_key", full)
        with pytest.raises(OSError, match="disk full"):
            make(tmp_path / "c")
    assert not (tmp_path / "c").exists()
    make(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c" / "sites").iterdir()) == list(SITES)
