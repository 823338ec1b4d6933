"""`hortus approve`: what it checks, prints, writes into the ledger, lists and takes back."""

import json
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from hortus.cli.main import app
from hortus.client.operator.accounts import opened_ledger
from hortus.privacy.ledger.decisions import Approved, Granted, Withdrawn


def hortus(*arguments: str | Path) -> Result:
    runner = CliRunner(env={"COLUMNS": "400", "TERM": "dumb"})
    return runner.invoke(app, [str(argument) for argument in arguments])


def words(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture
def site(tmp_path: Path, write_plan: Any) -> Path:
    write_plan()
    made = tmp_path / "site"
    options = ("--data", tmp_path / "ash.csv", "--out", made, "--epsilon", "50", "--delta", "1e-3")
    assert hortus("init", "site", "ash", *options).exit_code == 0
    set_policy(made, min_cohort=2, min_honest=1, max_honest_share=1.0)
    return made


def set_policy(site: Path, **changes: Any) -> None:
    fields = yaml.safe_load((site / "policy.yaml").read_text())
    budget = fields["budget"] | changes.pop("budget", {})
    (site / "policy.yaml").write_text(yaml.safe_dump(fields | changes | {"budget": budget}))


def bodies(site: Path) -> list[Any]:
    with opened_ledger(site, time.time) as (ledger, _), closing(ledger):
        return [entry.body for entry in ledger.entries()]


def test_an_approval_says_who_and_for_how_much_and_is_listed_and_taken_back(
    site: Path, write_plan: Any
) -> None:
    plan = write_plan()
    policy = (site / "policy.yaml").read_bytes()
    told = hortus("approve", site, plan, "--by", "Ada Lovelace")
    assert told.exit_code == 0, told.output
    (approved,) = bodies(site)
    assert isinstance(approved, Approved)
    assert (approved.name, approved.operator, approved.unit) == ("tiny", "Ada Lovelace", "record")
    assert (approved.epsilon, approved.delta) == (pytest.approx(50, rel=0.01), 1e-3)
    for expected in (
        f"contract {approved.plan}",
        "protects one record, added or removed",
        "counts on the noise of 2 of 2 sites",
        "policy allows it",
        f"ash 0.0000 {approved.epsilon:.4f} 50 2 of 2 rounds",
        "entry 1: ash takes part in tiny",
    ):
        assert expected in words(told)
    assert (site / "policy.yaml").read_bytes() == policy, "the ledger is the one place"

    again = hortus("approve", site, plan, "--by", "Bob")
    assert again.exit_code == 0
    assert "has already approved it in entry 1" in words(again)
    assert len(bodies(site)) == 1

    listed = words(hortus("approve", site, "--list"))
    assert re.search(r"1 \d{4}-\d\d-\d\d \d\d:\d\d UTC tiny [0-9a-f]{16} approved by Ada", listed)

    shown = words(hortus("status", site))
    assert re.search(r"takes part in .* 1 \S+ \S+ UTC tiny [0-9a-f]{16} approved by Ada", shown)
    (line,) = json.loads(hortus("status", site, "--json").output)["approvals"]
    assert (line["name"], line["operator"], line["plan"]) == ("tiny", "Ada Lovelace", approved.plan)
    assert (line["epsilon"], line["delta"]) == (approved.epsilon, approved.delta)

    back = hortus("approve", site, "--withdraw", "tiny", "--by", "Bob", "--reason", "a doubt")
    assert back.exit_code == 0, back.output
    assert bodies(site)[1] == Withdrawn(approved.plan, "tiny", "Bob", "a doubt")
    assert "withdrawn by Bob: a doubt" in words(hortus("approve", site, "--list"))
    assert "takes part in no plan" in words(hortus("status", site))
    assert json.loads(hortus("status", site, "--json").output)["approvals"] == []
    assert hortus("approve", site, plan, "--by", "Ada").exit_code == 0
    assert len(bodies(site)) == 3
    assert hortus("approve", site, "--withdraw", plan).exit_code == 0, "also by its file"
    assert isinstance(bodies(site)[3], Withdrawn)


@pytest.mark.parametrize(
    ("policy", "plan", "where"),
    [
        ({"budget": {"epsilon": 8.0}}, {}, "policy.yaml: budget"),
        ({"budget": {"delta": 1e-6}}, {}, "policy.yaml: budget"),
        ({"budget": {"per_plan": 20.0}}, {}, "policy.yaml: budget"),
        ({"budget": {"per_period": {"epsilon": 20.0}}}, {}, "policy.yaml: budget"),
        ({"budget": {"unit": "patient"}}, {}, "policy.yaml: budget.unit"),
        ({"min_cohort": 3}, {}, "policy.yaml: min_cohort"),
        ({"max_honest_share": 0.5}, {}, "policy.yaml: max_honest_share"),
        ({}, {"privacy": {"noise": "unsafe_none", "epsilon": None}}, "unsafe_no_privacy"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_site_would_refuse_later_is_refused_now(
    site: Path, write_plan: Any, policy: dict[str, Any], plan: dict[str, Any], where: str
) -> None:
    set_policy(site, **policy)
    told = hortus("approve", site, write_plan(**plan), "--by", "Ada")
    assert told.exit_code == 3, told.output
    assert where in words(told)
    assert "policy refuses it" in words(told)
    assert bodies(site) == []


def test_what_was_spent_before_counts_and_a_grant_helps(site: Path, write_plan: Any) -> None:
    set_policy(site, budget={"epsilon": 30.0})
    plan = write_plan()
    told = hortus("approve", site, plan)
    assert told.exit_code == 3
    assert "1 of 2 rounds" in words(told)
    assert "its budget is spent: the plan would bring its lifetime to ε = 38" in words(told)
    assert "hortus budget grant" in words(told)
    with opened_ledger(site, time.time) as (ledger, _):
        ledger.record(Granted("*", 20.0, "the board"))
    assert hortus("approve", site, plan).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "name exactly one of: a plan file, --list, --withdraw"),
        (("PLAN", "--list"), "name exactly one of"),
        (("--list", "--withdraw", "tiny"), "name exactly one of"),
        (("--withdraw", "other"), "none of the plans"),
        (("--withdraw", ""), "none of the plans"),
        (("PLAN", "--by", ""), "an operator's name has 1 to 100 characters"),
        (("PLAN", "--by", "x" * 101), "an operator's name has 1 to 100 characters"),
    ],
)
def test_what_cannot_be_meant_is_explained(
    site: Path, write_plan: Any, arguments: tuple[str, ...], expected: str
) -> None:
    plan = str(write_plan())
    told = hortus("approve", site, *(plan if one == "PLAN" else one for one in arguments))
    assert told.exit_code == 2, told.output
    assert expected in words(told)
    assert bodies(site) == []


def test_a_user_without_a_name_is_asked_for_one(
    site: Path, write_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user the password file does not know."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("hortus.cli.approve.getpass.getuser", nobody)
    told = hortus("approve", site, write_plan())
    assert told.exit_code == 2
    assert "--by" in words(told)
