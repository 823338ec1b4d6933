"""A card is taken up as its owner made it, or not at all."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.folders import ServerConfig, ServerFiles, SiteConfig, SiteFiles
from hortus.parties.founding import create_server, create_site
from hortus.protocol.lifetimes import CARD
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteCard | ServerCard]:
    folder = tmp_path_factory.mktemp("cards")
    policy = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
    addresses = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
    config = SiteConfig(site="ash", data=Path("x.csv"))
    return {
        "site": create_site(SiteFiles(folder / "ash"), config, policy, NOW),
        "server": create_server(ServerFiles(folder / "server"), addresses, NOW),
    }


@pytest.mark.parametrize("kind", ["site", "server"])
def test_a_card_reads_back_and_is_good_for_its_lifetime(
    cards: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    card = cards[kind]
    card.save(tmp_path / "card")
    assert load_card(tmp_path / "card") == card
    card.check(NOW + CARD)
    with pytest.raises(UsageError, match="the card expired on"):
        card.check(NOW + CARD + timedelta(days=1))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("site", {"site": "birch"}),
        ("site", {"flower": "ssh-ed25519 AAAA"}),
        ("site", {"request": "other"}),
        ("site", {"expires": "2099-01-01"}),
        ("site", {"identity": "0" * 64}),
        ("site", {"signature": "0" * 128}),
        ("server", {"aggregation": "elsewhere:1"}),
        ("server", {"superlink": "elsewhere:2"}),
        ("server", {"authority": "another"}),
        ("server", {"members": {"ash": {"certificate": "x", "flower": "y"}}}),
    ],
    ids=str,
)
def test_a_card_that_was_altered_is_refused(
    cards: dict[str, Any], kind: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    fields = cards[kind].model_dump(mode="json") | changes
    (tmp_path / "card").write_text(yaml.safe_dump(fields))
    with pytest.raises(UsageError, match="the card was altered"):
        load_card(tmp_path / "card").check(NOW)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("kind: client\n", "its kind is 'client', not site or server"),
        ("name: x\n", "its kind is 'None'"),
        ("kind: site\n", "identity"),
        ("[1, 2]\n", "."),
        ("kind: [site\n", "."),
    ],
)
def test_what_is_no_card_is_refused_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "card"
    path.write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        load_card(path)
    assert str(path) in str(caught.value)
