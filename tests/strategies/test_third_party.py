"""The strategy that docs/strategies.md writes works once pip has installed it, and only where it is allowed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.documented import blocks, install
from helpers.quadratic import CENTRES, START, Site, contract_with, plan_with, trained

from hortus.cli.settings import allow_kinds
from hortus.parties.folders import SiteFiles
from hortus.protocol.plan import Training
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.privacy import Privacy
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.registry import allow_plug_ins
from hortus.strategies.kinds import STRATEGIES

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
OWN = {"kind": "sign-vote", "dead_zone": 0.25}
LOCAL = {"noise": "local", "noise_multiplier": 1.0}


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of the page's two files."""
    return install(PAGE, ["sign_vote"], tmp_path_factory.mktemp("package"))


@pytest.fixture
def installed(site_packages: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site_packages))
    allow_plug_ins(())
    yield
    allow_plug_ins(())
    sys.modules.pop("sign_vote", None)


def test_it_is_short() -> None:
    assert all(len(code.splitlines()) <= 40 for code in blocks(PAGE, "python"))


@pytest.mark.usefixtures("installed")
def test_it_trains_where_it_is_allowed() -> None:
    with pytest.raises(UsageError, match="hortus-sign-vote, which is not allowed here"):
        STRATEGIES.complete(OWN)
    assert "sign_vote" not in sys.modules
    allow_plug_ins(["hortus-sign-vote"])
    kind = STRATEGIES.complete(OWN)
    assert STRATEGIES.parse(kind.section) == kind
    assert kind.words.endswith(".")
    server = {"server_optimizer": {"kind": "SGD", "learning_rate": 0.5}}
    contract = contract_with(OWN | server, 2, **LOCAL)
    site = Site(contract, CENTRES[0])
    site.vector(START)
    assert site.released == [0, 1]
    votes = [np.where(np.abs(START - c) > 0.25, np.sign(START - c), 0) for c in CENTRES]
    found, _ = trained(contract, 1)
    np.testing.assert_allclose(found, START - 0.5 * np.mean(votes, axis=0), atol=1e-6)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("section", "privacy", "said"),
    [
        (OWN | {"dead_zone": -1}, LOCAL, "dead_zone"),
        (OWN | {"deadzone": 1}, LOCAL, "did you mean dead_zone"),
        (OWN, {"noise": "distributed", "noise_multiplier": 1.0}, "needs a site's own noise"),
        ({"kind": "sign-vot"}, LOCAL, "Did you mean 'sign-vote'"),
    ],
    ids=["value", "key", "noise", "name"],
)
def test_it_is_held_to_what_ours_are(
    section: dict[str, Any], privacy: dict[str, Any], said: str
) -> None:
    allow_plug_ins(None)
    with pytest.raises(UsageError, match=said):
        plan_with(section, **privacy)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("listed", [(), ("hortus-sign-vote",)], ids=["not listed", "listed"])
def test_a_site_loads_it_only_if_its_policy_lists_it(
    tmp_path: Path, listed: tuple[str, ...]
) -> None:
    """Also what was read before the operator took it off the list."""
    allow_kinds(None)
    section = STRATEGIES.complete(OWN).section
    assert STRATEGIES.parse(section).kind == "sign-vote"
    Policy(budget=Budget(epsilon=8, delta=1e-5), plug_ins=listed).save(SiteFiles(tmp_path).policy)
    allow_kinds(tmp_path)
    if listed:
        assert STRATEGIES.parse(section).kind == "sign-vote"
        return
    with pytest.raises(UsageError, match=r"policy.yaml: plug_ins: \[hortus-sign-vote\]"):
        STRATEGIES.parse(section)


@pytest.mark.usefixtures("installed")
def test_a_contract_of_another_version_of_it_is_refused() -> None:
    allow_plug_ins(None)
    section = STRATEGIES.complete(OWN).section
    with pytest.raises(HortusError):
        STRATEGIES.parse(section.model_copy(update={"dead_zone": 1}))


def test_the_plan_on_the_page_is_one() -> None:
    plan, policy = map(yaml.safe_load, blocks(PAGE, "yaml"))
    made = plan_with(plan["strategy"], plan["training"]["local_steps"], **plan["privacy"])
    assert Training(**plan["training"]).releases_per_round == 32
    assert made.privacy == Privacy(**plan["privacy"])
    assert policy == {"plug_ins": ["hortus-sign-vote"]}
