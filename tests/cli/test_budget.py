"""`hortus budget` as a site's operator uses it."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers.charges import make_charge
from typer.testing import CliRunner, Result

from hortus.cli.main import app
from hortus.client.operator.accounts import opened_ledger
from hortus.client.site.folder import Site
from hortus.parties.folders import ServerConfig
from hortus.parties.founding import create_consortium
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.decisions import Frozen, Granted, Unfrozen
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import Refused

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


def table(path: Path, *people: str) -> Path:
    """A file of one record each."""
    path.write_text("text,label,patient\n" + "".join(f"{p} is ill,a,{p}\n" for p in people))
    return path


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A site that has released twice from a file, which grew between."""
    data = table(tmp_path / "ward.csv", "Ada", "Ben")
    server = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    policy = Policy(budget=Budget(epsilon=100, delta=DELTA, unit="patient"))
    consortium = create_consortium(
        tmp_path / "w", {"ash": data}, {"ash": policy}, server, datetime.now(UTC)
    )
    directory = consortium.site("ash").directory
    for step, people in enumerate((("Ada", "Ben"), ("Ada", "Ben", "Cyn", "Dan"))):
        table(data, *people)
        with Site(directory, lambda: 1.8e9) as opened:
            content = opened.content(opened.data)
            opened.ledger.follow(content)
            charge = replace(CHARGE, dataset=content.dataset, unit="patient", step=step)
            opened.ledger.charge(charge, policy.budget)
    return directory


def test_who_came_later_has_spent_less(ward: Path) -> None:
    two = epsilon({GaussianEvent(1.0, 4.0): 2}, DELTA)
    shown = hortus("budget", "show", str(ward)).output
    assert (
        f"the most exposed units (2) have spent ε = {two:.4f} each; 2 at most {ONE:.4f}." in shown
    )
    (line,) = [line for line in shown.splitlines() if f"  {two:.4f}" in line]
    assert line.split()[1:3] == ["2", "patient"]  # one dataset, two contents of it


def test_a_statement_of_disjointness_is_signed_shown_and_audited(
    ward: Path, tmp_path: Path
) -> None:
    other = table(tmp_path / "other.csv", "Eve", "Fay")
    (first,) = account_of(ward)
    arguments = ("--from", first[:8], "--reason", "another ward", "--by", "Dr. Ray")
    told = hortus("budget", "disjoint", str(ward), "--data", str(other), *arguments)
    assert told.exit_code == 0, told.output
    assert "says Dr. Ray; its 2 units are not in any of them" in told.output
    with Site(ward, lambda: 1.8e9) as opened:
        content = opened.content(other)
        opened.ledger.follow(content)
        charge = replace(CHARGE, dataset=content.dataset, unit="patient", step=9)
        opened.ledger.charge(charge, opened.policy.budget)
    assert len(account_of(ward)) == 2
    for arguments in (("budget", "show", str(ward)), ("status", str(ward)), ("audit", str(ward))):
        assert "says Dr. Ray" in hortus(*arguments).output, arguments
    told = json.loads(hortus("status", str(ward), "--json").output)["datasets"]
    assert sorted(line["contents"] for line in told) == [1, 2]


def test_a_statement_that_is_not_so_is_refused_in_words(ward: Path, tmp_path: Path) -> None:
    both = table(tmp_path / "both.csv", "Ben", "Fay", "Guy")
    (first,) = account_of(ward)
    words = ("--from", first[:8], "--reason", "another ward")
    refused = hortus("budget", "disjoint", str(ward), "--data", str(both), *words)
    assert refused.exit_code == 2
    assert "1 of 3 units are in both" in refused.output
    assert "Ben" not in refused.output
    unnamed = hortus("budget", "disjoint", str(ward), "--reason", "another ward")
    assert unnamed.exit_code == 2
    assert len(account_of(ward)) == 1


def account_of(directory: Path) -> list[str]:
    """The accounts of a site."""
    with opened_ledger(directory, lambda: 1.8e9) as (ledger, _):
        return sorted(ledger.accounts())
