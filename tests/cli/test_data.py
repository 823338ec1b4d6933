"""`hortus data check` tells an operator what a plan makes of a site's records, and a file nothing of their text."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.parties.founding import create_site
from hortus.protocol.policy import Budget, Policy
from tests.helpers.tiny_models import save_for_task

PLAIN = "the sky is red"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def plan(write_plan: Any) -> Path:
    path: Path = write_plan(privacy={"unit": "patient", "max_records_per_unit": 2, "epsilon": 5.0})
    return path


def found_site(folder: Path, data: Path, **fields: Any) -> Path:
    budget = Budget(epsilon=6.0, delta=1e-3, unit=fields.pop("unit", "patient"))
    files = SiteFiles(folder / "ash")
    config = SiteConfig(site="ash", data=data.resolve(), **fields)
    create_site(files, config, Policy(budget=budget), datetime.now(UTC))
    return files.directory


@pytest.fixture
def site(plan: Path) -> Path:
    return found_site(plan.parent, plan.parent / "ash.csv")


def test_all_that_an_operator_asks_before_a_budget_is_spent(site: Path, plan: Path) -> None:
    told = run("check", site, plan, "--rows", 2)
    for said in (
        "60 rows, 0 of them the same",
        "60 fit, 0 do not",
        "one patient: 17 of them",
        "a step takes 2",
        "warm 20 33.3 %",
        "2 of 2 rounds",
        "→ warm",
        "[CLS] apple is red",
    ):
        assert said in told


def test_json_holds_figures_and_no_text(site: Path, plan: Path) -> None:
    printed = run("check", site, plan, "--json")
    told = json.loads(printed)
    assert told["plan"]["labels"] == {"label": {"warm": 20, "fresh": 20, "cool": 20}}
    assert told["plan"]["units"]["count"] == 17
    assert told["plan"]["lengths"]["limit"] == 16
    (cost,) = told["plan"]["cost"]
    assert 0 < cost["a_round"] < cost["whole"] <= 5.0
    assert (cost["spent"], cost["limit"], cost["rounds_covered"]) == (0, 6.0, 2)
    assert "apple" not in printed
    assert (told["problems"], site.joinpath("ledger.sqlite").exists()) == ([], True)


def test_without_a_terminal_no_record_is_shown_unless_asked(site: Path, plan: Path) -> None:
    assert "[CLS]" not in run("check", site, plan)
    assert "apple" not in run("check", site)


def test_what_does_not_fit_is_a_problem_with_its_lines(site: Path, plan: Path) -> None:
    data = plan.parent / "ash.csv"
    data.write_text(data.read_text() + "some rose,hot,p1\n,warm,p1\nthe sea,cool,\n")
    told = run("check", site, plan, code=1)
    for said in ("60 fit, 3 do not", "line 62, column 'label'", "line 63, column 'text'", "line 64, column 'patient'"):  # fmt: skip
        assert said in told
    assert "some rose" not in told


def test_a_budget_that_does_not_cover_the_plan_is_a_problem(plan: Path) -> None:
    site = found_site(plan.parent, plan.parent / "ash.csv")
    policy = yaml.safe_load((site / "policy.yaml").read_text())
    policy["budget"]["epsilon"] = 0.5
    (site / "policy.yaml").write_text(yaml.safe_dump(policy))
    assert "covers 0 of 2 rounds" in run("check", site, plan, code=1)


def test_repeated_rows_gaps_and_unseen_labels_are_warned_of(plan: Path) -> None:
    data = plan.parent / "own.csv"
    rows = ["apple is red,warm,p1"] * 4 + [("the sky is a " * 9) + ",cool,p2"]
    data.write_text("\n".join(["query,category,patient", *rows]) + "\n")
    site = found_site(plan.parent, data, columns={"text": "query", "label": "category"})
    told = run("check", site, plan)
    for said in ("earlier one: 3.", "20.0 % of the records are cut at task.max_length: 16", "no record has 'fresh'", "1 of 2 units have more"):  # fmt: skip
        assert said in told


def test_identifiers_are_told_and_masked_on_request(plan: Path) -> None:
    pytest.importorskip("presidio_analyzer")
    data = plan.parent / "own.csv"
    data.write_text("text,label,patient\nmail ann@example.com,warm,p1\nthe sea,cool,p2\n")
    site = found_site(plan.parent, data)
    told = run("check", site, plan, "--rows", 1)
    assert "EMAIL_ADDRESS 1" in told
    assert "1 of 2 rows looked at hold likely identifiers" in told
    assert "Not found: names of people" in told
    masked = run("check", site, plan, "--mask", "--json")
    assert json.loads(masked)["identifiers"]["masked"] is True


def test_the_mask_of_a_loss_is_shown_as_it_is_trained(tmp_path: Path, write_plan: Any) -> None:
    model = save_for_task("llama", tmp_path / "llama")
    task = {"kind": "chat", "max_length": 32}
    plan = write_plan(
        model=str(model), task=task, adapter={"targets": ["q_proj"]}, privacy={"epsilon": 5.0}
    )
    turns = [{"role": "user", "content": PLAIN}, {"role": "assistant", "content": "a tree"}]
    data = tmp_path / "own.jsonl"
    data.write_text(json.dumps({"messages": turns}) + "\n")
    told = run("check", found_site(tmp_path, data, unit="record"), plan, "--rows", 1)
    before, learnt = told.split("⟦")[0], told.split("⟦")[1].split("⟧")[0]
    assert "tree" in learnt
    assert "tree" not in before
    assert "within ⟦ ⟧ is learnt" in told


def test_a_share_is_held_out_and_nothing_is_overwritten(plan: Path, tmp_path: Path) -> None:
    data, out = plan.parent / "ash.csv", tmp_path / "parts"
    told = run("split", data, "--unit", "patient", "--key", "a", "--share", "0.3", "--out", out)
    sizes = [len((out / name).read_text().splitlines()) for name in ("train.jsonl", "held-out.jsonl")]  # fmt: skip
    assert sum(sizes) == 60
    assert f"{sizes[1]} rows" in told
    assert "exists already" in run("split", data, "--out", out, code=2)
    assert "not between 0 and 1" in run("split", data, "--share", "1.5", "--out", tmp_path / "x", code=2)  # fmt: skip
    assert "--key " in run("split", data, "--out", tmp_path / "y")
    assert "no column 'none'" in run(
        "split", data, "--unit", "none", "--out", tmp_path / "z", code=2
    )
    assert not (tmp_path / "z" / "train.jsonl").exists()
