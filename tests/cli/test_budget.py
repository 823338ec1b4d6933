"""`hortus budget` as a site's operator uses it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers.charges import make_charge
from typer.testing import CliRunner, Result

from hortus.cli.main import app
from hortus.client.accounts import opened_ledger
from hortus.privacy.accounting import epsilon
from hortus.privacy.entries import Frozen, Granted, Unfrozen
from hortus.privacy.events import GaussianEvent
from hortus.protocol.consortium import ServerConfig
from hortus.protocol.errors import Refused
from hortus.protocol.membership import create_consortium
from hortus.protocol.policy import Budget, Policy

DELTA = 1e-5
ONE = epsilon({GaussianEvent(1.0, 4.0): 1}, DELTA)
POLICY = Policy(budget=Budget(epsilon=1.2 * ONE, delta=DELTA))
CHARGE = make_charge(mode="local")


def hortus(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(app, list(arguments))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    server = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    consortium = create_consortium(
        tmp_path / "c", {"ash": Path("ash.csv")}, {"ash": POLICY}, server, datetime.now(UTC)
    )
    directory = consortium.site("ash").directory
    with opened_ledger(directory, lambda: 1.8e9) as (ledger, policy):
        ledger.charge(CHARGE, policy.budget)
    return directory


def test_a_grant_is_what_a_further_release_needs(site: Path) -> None:
    shown = hortus("budget", "show", str(site)).output
    assert f"{ONE:.4f}" in shown
    assert f"{POLICY.budget.epsilon - ONE:.4f}" in shown
    with opened_ledger(site, lambda: 1.8e9) as (ledger, policy):
        with pytest.raises(Refused, match="hortus budget grant"):
            ledger.charge(replace(CHARGE, step=1), policy.budget)
        granted = hortus(
            *("budget", "grant", str(site), "--epsilon", "1", "--reason", "board, 3 March"),
            *("--dataset", "dddd"),
        )
        assert "entry 2: grant, dataset dddd" in granted.output
        ledger.charge(replace(CHARGE, step=1), policy.budget)  # the agent need not start again
        assert [e.body for e in ledger.entries()][1] == Granted("d" * 64, 1.0, "board, 3 March")
    assert f"{POLICY.budget.epsilon + 1:g}" in hortus("budget", "show", str(site)).output


def test_freeze_and_unfreeze_are_signed_entries_with_a_reason(site: Path) -> None:
    assert hortus("budget", "freeze", str(site), "--reason", "incident 7").exit_code == 0
    assert "frozen: incident 7" in hortus("budget", "show", str(site)).output
    assert hortus("budget", "unfreeze", str(site), "--reason", "closed").exit_code == 0
    assert "frozen" not in hortus("budget", "show", str(site)).output
    with opened_ledger(site, lambda: 1.8e9) as (ledger, _):
        bodies = [entry.body for entry in ledger.entries()][1:]
    assert bodies == [Frozen("*", "incident 7"), Unfrozen("*", "closed")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("grant", "--epsilon", "-1", "--reason", "x"), "a positive, finite"),
        (("grant", "--epsilon", "1", "--reason", " "), "a reason has"),
        (("grant", "--epsilon", "1", "--reason", "x", "--dataset", "ab"), "Known are dddd"),
        (("freeze",), "--reason"),
    ],
)
def test_a_decision_that_is_none_is_explained(
    site: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = hortus("budget", arguments[0], str(site), *arguments[1:])
    assert result.exit_code == 2
    assert words in result.output
