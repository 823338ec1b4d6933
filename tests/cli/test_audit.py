"""`hortus audit` of folders, bundles and runs: what it prints and writes, and its exit code."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.charges import make_approval, make_charge, make_content
from helpers.made_runs import make_contract, make_plan, make_store
from rich.console import Console
from typer.testing import CliRunner, Result

from hortus.cli.audit_page import audit_page
from hortus.cli.audit_table import round_tables
from hortus.cli.main import app
from hortus.client.site.folder import Site
from hortus.pages.numbers import percent_up
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.attacks.detection import true_positive_bound, true_positive_bound_of
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import export, read_evidence
from hortus.privacy.audit.rounds import RoundRow
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.errors import Refused
from hortus.runtime.names import SERVER
from hortus.server.audit_report import make_report


def hortus(*arguments: str | Path, columns: int = 400) -> Result:
    runner = CliRunner(env={"COLUMNS": str(columns), "TERM": "dumb"})
    return runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def run(write_plan: Any, tmp_path: Path) -> Path:
    """A small simulated run of three sites."""
    out = tmp_path / "run"
    assert hortus("simulate", write_plan(), "--out", out).exit_code == 0
    return out


def test_a_run_is_audited_exported_shown_and_compared_with_the_servers_record(
    run: Path, tmp_path: Path
) -> None:
    site = run / "consortium" / "sites" / "ash"
    whole = hortus("audit", run)
    assert whole.exit_code == 0, whole.output
    lines = whole.output.splitlines()
    held = [line.split(" holds up to entry 5, ")[0] for line in lines if " holds up to " in line]
    assert held == ["ash", "birch", "cedar"]
    assert "the server countersigned entry 5" in whole.output
    assert lines[-1] == "HOLDS: ash, birch, cedar (0 errors, 0 warnings)"
    check_bundle(run, site, tmp_path / "ash.evidence")
    check_json(json.loads(hortus("audit", run, "--json").stdout))
    page = tmp_path / "audit.html"
    assert hortus("audit", run, "--html", page).exit_code == 0
    check_page(page.read_text())
    check_rolled_back(run, site, tmp_path / "anchor.json")
    broken = hortus("audit", run, "--html", page)
    assert broken.exit_code == 1
    assert page.read_text().count("DOES NOT HOLD: ash: ") == 2, "first and last"

    # Another site's ledger in its place is signed by another key.
    shutil.copy(site.parent / "birch" / "ledger.sqlite", site / "ledger.sqlite")
    exchanged = hortus("audit", site)
    assert exchanged.exit_code == 1
    assert "entry 1: its signature is not by the key of ash" in exchanged.output


def check_bundle(run: Path, site: Path, bundle: Path) -> None:
    """One file for an auditor elsewhere, who trusts a roster of their own; no word of a record in it."""
    assert hortus("audit", "export", site, bundle).exit_code == 0
    keys = ("--roster", run / "consortium/server/roster.yaml")
    alone = hortus("audit", bundle, *keys)
    assert alone.exit_code == 4
    assert "HOLDS SO FAR: ash holds up to entry 5, " in alone.output
    assert " UTC; nothing here shows what came later (0 errors, 0 warnings)" in alone.output
    assert hortus("audit", bundle, run, *keys).exit_code == 0
    words = {
        word
        for line in (run / "records/ash.jsonl").read_text().splitlines()
        for word in json.loads(line)["text"].split()
        if len(word) > 3
    }
    stored = bundle.read_bytes()
    assert words
    assert not any(word.encode() in stored for word in words)


def check_json(told: Any) -> None:
    assert told["holds"] is True
    assert [one["site"] for one in told["sites"]] == ["ash", "birch", "cedar"]
    first = told["sites"][0]
    assert first["rounds"][-1]["epsilon_so_far"] <= 50
    assert [one["round"] for one in first["rounds"]] == [1, 2]
    assert (first["errors"], first["warnings"]) == ([], [])
    assert told["verdict"]["outcome"] == "holds"
    (total,) = first["totals"]
    assert (total["rounds"], total["releases"]) == (2, 4)
    assert total["epsilon"] == first["rounds"][-1]["epsilon_so_far"]
    (plan,) = first["plans"]
    assert (plan["name"], plan["runs"]) == ("tiny", 1)
    for time in (first["last_time"], total["ended"], first["approvals"][0]["time"], told["made"]):
        assert datetime.fromisoformat(time).tzinfo is not None


def check_page(text: str) -> None:
    for expected in (
        "HOLDS: ash",
        "<svg",
        "Who signed what",
        "What is not promised",
        "at most",
    ):
        assert expected in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "<script" not in text


def check_rolled_back(run: Path, site: Path, anchor: Path) -> None:
    """An anchor that is kept elsewhere shows that an older copy of a ledger is in place."""
    assert hortus("budget", "anchor", site, anchor).exit_code == 0
    assert hortus("audit", site, "--anchor", anchor).exit_code == 0
    with closing(sqlite3.connect(site / "ledger.sqlite")) as raw, raw:
        for (trigger,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.execute("DELETE FROM entries WHERE seq = 5")
        raw.execute("DELETE FROM countersignatures WHERE seq = 5")
        raw.execute("DELETE FROM sent")
    assert hortus("audit", site).exit_code == 0  # whole in itself …
    rolled_back = hortus("audit", site, "--anchor", anchor)
    assert rolled_back.exit_code == 1
    assert "entry 5: it is missing: the anchor holds entry 5" in rolled_back.output
    # … but the server has a vector that it does not account for.
    omitted = hortus("audit", run)
    assert omitted.exit_code == 1
    assert "ash: the server has its vector of session" in omitted.output


def test_refusals_are_in_the_table_which_fits_80_columns(write_plan: Any, tmp_path: Path) -> None:
    plan = write_plan(privacy={"spare_attempts": 0}, simulation={"budgets": {"birch": 45.0}})
    run = tmp_path / "run"
    assert hortus("simulate", plan, "--out", run).exit_code == 0
    told = json.loads(hortus("audit", run, "--json").stdout)
    birch = told["sites"][1]
    last = birch["rounds"][-1]
    assert (last["round"], last["releases"], last["refusals"]) == (2, 1, 1)
    (refusal,) = birch["refusals"]
    assert "budget is spent" in refusal["reason"]
    (departure,) = told["departures"]
    assert (departure["site"], departure["is_signed"]) == ("birch", True)

    shown = hortus("audit", run, columns=80)
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert max(map(len, lines)) <= 80
    heading = next(line for line in lines if "refused" in line and "ε so far" in line)
    table = lines[lines.index(heading) :]
    figures = [last["epsilon_alone"], last["epsilon_so_far"], 45 - last["epsilon_so_far"]]
    row = ["2", "1", "0", "1", *(f"{figure:.3f}" for figure in figures)]
    assert any(line.split() == row for line in table)
    assert f"σ/C {last['noise_multiplier']:.4f}" in " ".join(shown.output.split())
    assert "birch, from round 2 on: its budget is spent" in " ".join(shown.output.split())

    page = tmp_path / "audit.html"
    hortus("audit", run, "--html", page)
    assert "What was refused" in page.read_text()


def test_the_page_bounds_an_attacker_by_the_whole_loss_of_all_that_was_charged(
    tmp_path: Path,
) -> None:
    site, server = Identity.generate("ash"), Identity.generate(SERVER)
    ledger = Ledger.open(tmp_path / "ledger.sqlite", site, lambda: 1.8e9)
    ledger.record(make_approval())
    ledger.follow(make_content("d" * 64, "Dora"))
    ledger.charge(make_charge(sampling_rate=0.1, noise_multiplier=1.0, releases=60), None)
    ledger.charge(make_charge(step=1, noise_multiplier=9.0, releases=3), None)
    bare = {"mode": "unsafe_none", "mechanism": "none", "noise_multiplier": 0.0}
    ledger.state_disjoint(make_content("b" * 64, "Bob"), ["d" * 64], "Ada", "another ward")
    ledger.charge(make_charge(step=2, dataset="b" * 64, **bare), None)
    ledger.close()
    roster = Roster({"ash": site.public_key_bytes}, server.public_key_bytes)
    evidence = read_evidence("ash", tmp_path / "ledger.sqlite", roster, {})
    audited = audit(evidence, roster)
    assert audited.first_broken is None
    bundle, keys = tmp_path / "ash.evidence", tmp_path / "roster.yaml"
    export(evidence, bundle)
    roster.save(keys)
    page = audit_page(make_report([bundle], None, keys, 1.8e9))
    history = {GaussianEvent(0.1, 1.0): 60, GaussianEvent(1.0, 9.0): 3}
    for rate in (0.01, 0.001):
        bound = true_positive_bound_of(history, rate)
        point = true_positive_bound(audited.rounds[1].epsilon_so_far, 1e-5, rate)
        assert bound < point / 2
        assert f"at most {percent_up(bound)}" in page
        assert f"at most {percent_up(point)}" not in page
    assert page.count("at most 100.0 %") == 2


def test_a_number_is_never_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    """Every parameter another in each row, on a terminal that is narrower than any."""
    row = RoundRow(
        *(
            "f" * 32,
            "e" * 64,
            0,
            1.8e9,
            1.8e9,
            "ash",
            "d" * 64,
            "patient_number",
            "distributed",
            "discrete-gaussian",
        ),
        *(0.0123456, 1234.56789, 0.000123456, 123456, 98765, 1.2345e-7, 123.456789, 9876.54321),
        *(10000.0, 12345),
    )
    other = replace(row, round=99, sampling_rate=0.5, noise_multiplier=2.0, clipping_norm=3.0)
    console = Console(width=40)
    for part in round_tables([row, other], {}):
        console.print(part)
    printed = capsys.readouterr().out
    assert "…" not in printed
    digits = sorted(character for character in printed if character.isdigit())
    wide = Console(width=400)
    for part in round_tables([row, other], {}):
        wide.print(part)
    assert digits == sorted(c for c in capsys.readouterr().out if c.isdigit())


def test_an_agent_does_not_start_behind_its_anchor(run: Path, tmp_path: Path) -> None:
    site, anchor = run / "consortium" / "sites" / "ash", tmp_path / "anchor.json"
    hortus("budget", "anchor", site, anchor)
    config = site / "site.yaml"
    config.write_text(config.read_text() + f"anchor: {anchor}\n")
    with Site(site, lambda: 1.8e9):
        pass
    for name in site.glob("ledger.sqlite*"):
        name.unlink()
    with pytest.raises(Refused, match="rolled back: it does not contain entry 5"):
        Site(site, lambda: 1.8e9)


def test_a_path_that_is_nothing_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nothing")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((tmp_path,), "no site"),
        ((tmp_path / "file",), "not an evidence bundle"),
        ((tmp_path / "none.evidence",), "there is no such file or folder"),
        ((tmp_path / "none",), "there is no such file or folder"),
        ((tmp_path / "none.evidence", "--html", tmp_path / "x.html"), "there is no such file"),
        (("export", tmp_path / "none", tmp_path / "x"), "there is no such file or folder"),
        ((tmp_path / "file", tmp_path / "none.evidence"), "not an evidence bundle"),
    ]
    for arguments, words in cases:
        result = hortus("audit", *arguments)
        assert result.exit_code == 2, result.output
        assert words in " ".join(result.output.split()), arguments


@pytest.mark.parametrize("options", [(), ("--json",), ("--html", "page.html")], ids=" ".join)
def test_a_servers_claims_alone_are_no_evidence(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Neither in words, nor for a program, nor as a page."""
    folder, page = tmp_path / "a run", tmp_path / "page.html"
    make_store(folder, make_contract(make_plan()), 2)
    result = hortus("audit", folder, *(page if one == page.name else one for one in options))
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "a server's claims are not evidence" in told
    assert f"hortus audit '{folder}' FILE…" in told
    assert not page.exists()
    claims = hortus("status", folder)
    assert claims.exit_code == 0
    assert "ε claimed" in claims.output
