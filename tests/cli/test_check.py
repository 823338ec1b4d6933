"""`hortus check` finds what was spoilt, names the remedy, and ends with 1."""

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.client.site.folder import keep_contract
from hortus.parties.folders import Consortium, ServerConfig, SiteConfig
from hortus.parties.founding import create_consortium
from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import prepare
from hortus.protocol.policy import Budget, Policy
from hortus.server.sums.service import serving

SITES = ("ash", "birch", "cedar")


def check(*arguments: object) -> tuple[int, dict[str, dict[str, str]]]:
    """Runs the command; returns its exit code and its lines by what they are about."""
    result = CliRunner().invoke(app, ["check", *map(str, arguments), "--json"])
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, {line["what"]: line for line in json.loads(result.stdout)}


def problems(*arguments: object) -> dict[str, str]:
    """What is wrong but that no server listens."""
    _, lines = check(*arguments)
    return {
        what: f"{line['said']} {line['remedy']}"
        for what, line in lines.items()
        if line["verdict"] == "problem" and what != "port of SuperLink"
    }


@pytest.fixture
def plan(write_plan: Any) -> Path:
    path: Path = write_plan(cohort={"minimum": 3, "max_colluding": 1})
    return path


@pytest.fixture
def consortium(plan: Path, tmp_path: Path) -> Consortium:
    policy = Policy(budget=Budget(epsilon=60.0, delta=1e-3))
    data = {site: plan.parent / f"{site}.csv" for site in SITES}
    server = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
    policies, now = dict.fromkeys(SITES, policy), datetime.now(UTC)
    return create_consortium(tmp_path / "c", data, policies, server, now)


def test_a_whole_party_has_no_problem_but_a_server_that_does_not_run(
    consortium: Consortium, plan: Path
) -> None:
    site = consortium.site("ash").directory
    code, lines = check(site, plan)
    assert code == 1
    assert {what for what, line in lines.items() if line["verdict"] == "problem"} == {
        "port of SuperLink"
    }
    for what in ("model", "data", "policy", "budget"):
        assert lines[f"tiny: {what}"]["verdict"] == "ok"
    assert check(consortium.server.directory, plan)[0] in (0, 1)
    assert not set(problems(consortium.server.directory, plan)) - {
        "aggregation",
        "superlink",
    }, "ports 1 and 2 are root's"
    shown = CliRunner().invoke(app, ["check", str(site)])
    assert "nothing listens at 127.0.0.1, port 2" in shown.output
    assert "→ Is the server running" in shown.output


Spoil = Callable[[Consortium, Path], None]


def _open_key(consortium: Consortium, _: Path) -> None:
    consortium.site("ash").identity.chmod(0o644)


def _lose_certificate(consortium: Consortium, _: Path) -> None:
    consortium.site("ash").tls.certificate.unlink()


def _swap_certificate(consortium: Consortium, _: Path) -> None:
    other = consortium.site("birch").tls.certificate.read_bytes()
    consortium.site("ash").tls.certificate.write_bytes(other)


def _swap_card(consortium: Consortium, _: Path) -> None:
    own, other = consortium.site("ash"), consortium.site("birch")
    own.card("cedar").write_bytes(other.card("birch").read_bytes())


def _lose_roster(consortium: Consortium, _: Path) -> None:
    consortium.site("ash").roster.unlink()


def _spoil_label(consortium: Consortium, plan: Path) -> None:
    with (plan.parent / "ash.csv").open("a") as file:
        file.write("the sky is blue,odd,p1\n")


def _spoil_policy(consortium: Consortium, _: Path) -> None:
    consortium.site("ash").policy.write_text("budget: {epsilon: 1}\n")


def _ask_more_sites(consortium: Consortium, _: Path) -> None:
    files = consortium.site("ash")
    policy = Policy.load(files.policy)
    policy.model_copy(update={"min_cohort": 5, "min_honest": 2}).save(files.policy)


def _small_budget(consortium: Consortium, _: Path) -> None:
    files = consortium.site("ash")
    policy = Policy.load(files.policy)
    budget = policy.budget.model_copy(update={"epsilon": 30.0})
    policy.model_copy(update={"budget": budget}).save(files.policy)


def _other_model(consortium: Consortium, plan: Path) -> None:
    files = consortium.site("ash")
    config = SiteConfig.load(files.config)
    config.model_copy(update={"model": "nowhere"}).save(files.config)


@pytest.mark.parametrize(
    ("spoil", "what", "told"),
    [
        (_open_key, "keys", "chmod go="),
        (_lose_certificate, "TLS certificate", "not issued one yet"),
        (_swap_certificate, "TLS certificate", "does not belong to the key beside it"),
        (_swap_card, "cards", "the card of cedar has a different key"),
        (_lose_roster, "roster", "hortus roster add"),
        (_spoil_label, "tiny: data", "line 62, column 'label': the label 'odd'"),
        (_spoil_policy, "policy", "budget.delta"),
        (_ask_more_sites, "tiny: policy", "this site requires 5"),
        (_small_budget, "tiny: budget", "of 2 rounds"),
        (_other_model, "tiny: model", "there is no folder"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_was_spoilt_is_found_with_its_remedy(
    consortium: Consortium, plan: Path, spoil: Spoil, what: str, told: str
) -> None:
    spoil(consortium, plan)
    found = problems(consortium.site("ash").directory, plan)
    assert told in found[what]


def test_without_a_plan_those_that_were_kept_are_looked_at(
    consortium: Consortium, plan: Path
) -> None:
    contract, _ = prepare(load_plan(plan), plan.parent)
    files = consortium.site("ash")
    keep_contract(files, contract)
    _, lines = check(files.directory)
    assert lines["tiny: model"]["verdict"] == lines["tiny: data"]["verdict"] == "ok"
    _spoil_label(consortium, plan)
    assert "'odd'" in problems(files.directory)["tiny: data"]


def test_the_way_to_the_aggregation_service_is_gone_with_the_sites_own_certificate(
    consortium: Consortium,
) -> None:
    files = consortium.site("ash")
    hub: Any = object()
    with serving(hub, consortium.server.tls, "127.0.0.1:0", 3) as port:
        config = SiteConfig.load(files.config)
        address = f"127.0.0.1:{port}"
        config.model_copy(update={"aggregation": address}).save(files.config)
        _, lines = check(files.directory)
        assert lines["port of aggregation"]["verdict"] == "ok"
        assert lines["TLS of aggregation"]["verdict"] == "ok"
        _swap_certificate(consortium, Path())
        _, lines = check(files.directory)
    assert lines["TLS of aggregation"]["verdict"] == "problem"


def test_a_port_of_the_servers_that_is_taken_is_told(consortium: Consortium) -> None:
    files = consortium.server
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        config = ServerConfig.load(files.config)
        config.model_copy(update={"superlink": address}).save(files.config)
        assert "change the address in server.yaml" in problems(files.directory)["superlink"]
    assert "superlink" not in problems(files.directory)


def test_a_folder_that_is_nobodys_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", str(tmp_path)])
    assert result.exit_code == 2
    assert "neither a site's folder" in result.output
