"""A party's folder is there entirely or not at all, and its secrets are its own."""

import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hortus.parties import founding
from hortus.parties.card import SiteCard, load_card
from hortus.parties.folders import Consortium, ServerConfig, ServerFiles, SiteConfig, SiteFiles
from hortus.parties.founding import create_consortium, create_server, create_site
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER

NOW = datetime.now(UTC)
POLICY = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
ADDRESSES = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
DATA = {site: Path(f"{site}.csv") for site in ("ash", "birch")}


def site(folder: Path, name: str = "ash") -> SiteCard:
    config = SiteConfig(site=name, data=Path("x.csv"))
    return create_site(SiteFiles(folder), config, POLICY, NOW)


def consortium(folder: Path) -> Consortium:
    return create_consortium(folder, DATA, dict.fromkeys(DATA, POLICY), ADDRESSES, NOW)


FOUNDERS: dict[str, Callable[[Path], object]] = {
    "site": site,
    "server": lambda folder: create_server(ServerFiles(folder), ADDRESSES, NOW),
    "consortium": consortium,
}


def test_a_site_has_keys_of_its_own_and_a_card_that_is_signed_with_them(tmp_path: Path) -> None:
    card, other = site(tmp_path / "ash"), site(tmp_path / "again")
    files = SiteFiles(tmp_path / "ash")
    card.check(NOW)
    assert load_card(files.card("ash")) == card
    assert card.key == Identity.load(files.identity, "ash").public_key_bytes != other.key
    assert card.flower != other.flower
    assert files.dataset_key.read_bytes() != SiteFiles(tmp_path / "again").dataset_key.read_bytes()
    assert len(files.dataset_key.read_bytes()) == 32
    assert (Policy.load(files.policy), SiteConfig.load(files.config).site) == (POLICY, "ash")
    assert not files.roster.exists(), "it knows nobody yet"


@pytest.mark.parametrize("founder", FOUNDERS)
def test_every_private_key_is_its_owners_alone(tmp_path: Path, founder: str) -> None:
    FOUNDERS[founder](tmp_path / "new")
    secret = [
        path
        for path in (tmp_path / "new").rglob("*")
        if path.is_file()
        and (b"PRIVATE KEY" in path.read_bytes() or path.name in ("identity.key", "dataset.key"))
    ]
    assert secret
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


@pytest.mark.parametrize("founder", FOUNDERS)
def test_a_folder_that_exists_is_left_alone(tmp_path: Path, founder: str) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(UsageError, match="the folder exists already"):
        FOUNDERS[founder](folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("founder", "step"),
    [
        ("site", "create_flower_key"),
        ("site", "write_site_card"),
        ("server", "renew_server_certificate"),
        ("server", "write_server_card"),
        ("consortium", "admit"),
        ("consortium", "install"),
    ],
)
def test_a_folder_whose_making_fails_is_not_there_and_can_be_made_again(
    tmp_path: Path, founder: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(founding, step, fail)
        with pytest.raises(OSError, match="No space"):
            FOUNDERS[founder](tmp_path / "new")
    assert not (tmp_path / "new").exists()
    FOUNDERS[founder](tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"], "nothing is left of the first"


def test_nobody_but_the_server_has_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot have the server's name"):
        site(tmp_path / "new", SERVER)


def test_the_parties_of_a_trial_know_one_another(tmp_path: Path) -> None:
    made = consortium(tmp_path / "all")
    rosters = [Roster.load(files.roster) for files in (made.server, *map(made.site, DATA))]
    assert rosters[0].sites.keys() == DATA.keys()
    assert all(roster == rosters[0] for roster in rosters)
    for name, data in DATA.items():
        files = made.site(name)
        assert files.tls.certificate.read_bytes() == made.server.issued(name).read_bytes()
        assert SiteConfig.load(files.config).data == data
