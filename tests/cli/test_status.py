"""What an operator sees of a site, a server and a run, in words and as JSON."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.made_runs import SITES, make_contract, make_plan, make_store
from typer.testing import CliRunner, Result

from hortus.cli.main import app
from hortus.client.operator.accounts import opened_ledger
from hortus.client.site.folder import Site
from hortus.parties.fingerprint import roster_words
from hortus.parties.folders import Consortium, ServerConfig, SiteConfig
from hortus.parties.founding import create_consortium
from hortus.parties.identity_change import sole
from hortus.privacy.ledger.decisions import EVERY_DATASET, Frozen
from hortus.protocol.heads import LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget, Policy
from hortus.server.run.attendance import AttendanceBook, Said, attended
from hortus.server.run.records import Departure
from hortus.server.sums.notary import Notary


def hortus(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, list(arguments))


def status(directory: Path) -> dict[str, Any]:
    result = hortus("status", str(directory), "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert isinstance(told, dict)
    return told


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    sites = ("ash", "birch")
    policy = Policy(budget=Budget(epsilon=1.0, delta=1e-5))
    server = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
    data = dict.fromkeys(sites, Path("x.csv"))
    start = datetime.now(UTC)
    return create_consortium(tmp_path / "c", data, dict.fromkeys(sites, policy), server, start)


def test_a_run_and_its_sites_say_what_happened(write_plan: Any, tmp_path: Path) -> None:
    plan = write_plan(simulation={"budgets": {"cedar": 0.001}})
    out = tmp_path / "run"
    assert hortus("simulate", str(plan), "--out", str(out)).exit_code == 0
    run = status(out)
    assert (run["kind"], run["rounds_finished"], run["rounds_planned"]) == ("run", 2, 2)
    assert run["sites"] == ["ash", "birch"]
    (away,) = run["absences"]
    assert (away["site"], away["since"], away["back"]) == ("cedar", 1, None)
    assert "budget" in away["reason"]
    assert (run["state"], run["attendance"]) == ("not running", None)
    site = status(out / "consortium" / "sites" / "ash")
    (dataset,) = site["datasets"]
    assert site["rounds"][-1]["round"] == 2
    assert dataset["epsilon_spent"] == pytest.approx(site["rounds"][-1]["epsilon"])
    assert 0 < dataset["epsilon_spent"] <= dataset["epsilon_limit"]
    for directory in (out, out / "consortium" / "sites" / "ash"):
        assert hortus("status", str(directory)).exit_code == 0


def test_what_a_site_says_is_no_markup(tmp_path: Path) -> None:
    """Else a site that refuses with half a tag would keep the server's operator from looking."""
    contract = make_contract(make_plan(rounds=2))
    reason = "no [/red] [bold]budget[/] left"
    make_store(tmp_path, contract, 1).note_departure(Departure(1, "ash", reason))
    shown = hortus("status", str(tmp_path))
    assert shown.exit_code == 0, shown.output
    assert reason in " ".join(shown.output.split())


def test_a_site_and_the_server_show_one_roster_and_their_certificates(
    consortium: Consortium,
) -> None:
    site, server = status(consortium.site("ash").directory), status(consortium.server.directory)
    words = roster_words(Roster.load(consortium.server.roster))
    assert site["roster"] == server["roster"] == {"fingerprint": words, "sites": ["ash", "birch"]}
    assert [line["whose"] for line in server["certificates"]][2:] == ["ash", "birch"]
    assert {line["urgency"] for line in site["certificates"]} == {"far"}
    for files in (consortium.site("ash"), consortium.server):
        assert status(files.directory)["state"] == "not running"
        with sole(files):
            assert status(files.directory)["state"] == "running"
    shown = hortus("status", str(consortium.server.directory)).output
    assert words in shown


def test_both_ends_show_when_they_last_heard_of_each_other(consortium: Consortium) -> None:
    files = consortium.site("ash")
    assert (
        status(files.directory)["contacts"] == status(consortium.server.directory)["contacts"] == {}
    )
    identity = Identity.load(files.identity, "ash")
    head = LedgerHead.sign(identity, 1, "ab" * 32)
    notary = Notary.open(consortium.server, lambda: 1.8e9)
    seen = notary.countersign(head, identity.public_key_bytes)
    with Site(files.directory, lambda: 1.0) as site:
        site.ledger.keep(seen)
    time = "2027-01-15T08:00:00+00:00"
    assert status(files.directory)["contacts"] == {"server": time}
    assert status(consortium.server.directory)["contacts"] == {"ash": time}
    assert f"contact with ash: {time}" in hortus("status", str(consortium.server.directory)).output


def test_a_site_that_has_pinned_nobody_says_so(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text("text,label\n")
    data, out = str(tmp_path / "records.csv"), str(tmp_path / "elm")
    assert hortus("init", "site", "elm", "--data", data, "--out", out).exit_code == 0
    told = status(tmp_path / "elm")
    assert told["roster"] is None
    assert told["certificates"] == []
    assert "no party is pinned yet" in hortus("status", out).output


def test_a_folder_of_nobody_is_refused(tmp_path: Path) -> None:
    result = hortus("status", str(tmp_path))
    assert result.exit_code == 2
    assert "neither a site's folder" in result.output


def test_a_run_that_goes_on_tells_who_is_there(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan(rounds=2)), 1)
    book = AttendanceBook(tmp_path, SITES, lambda: 1.8e9, dict(enumerate(SITES)))
    book.see([0, 1, 2])
    book.see([0, 1])
    book.ask()
    book.hear("ash", Said.YES)
    with attended(tmp_path):
        run = status(tmp_path)
        shown = hortus("status", str(tmp_path)).output
    assert run["state"] == "running"
    told = run["attendance"]["sites"]
    assert {name: site["state"] for name, site in told.items()} == {
        "ash": "connected, takes part",
        "birch": "connected",
        "cedar": "down, last heard 2027-01-15 08:00:00 UTC",
        "dogwood": "not connected yet",
    }
    assert told["cedar"]["last_heard"] == "2027-01-15T08:00:00+00:00"
    assert "birch, cedar, dogwood" in shown
    assert "not connected yet" in shown
    assert status(tmp_path)["attendance"] is None


def test_a_site_is_reminded_of_an_anchor_until_it_has_one(consortium: Consortium) -> None:
    files = consortium.site("ash")
    ash, kept = str(files.directory), files.directory / "kept.anchor"

    def shown() -> list[str]:
        lines = hortus("status", ash).output.splitlines()
        return [line for line in lines if line.startswith("anchor")]

    assert (status(files.directory)["entries"], shown()) == (0, []), "there is nothing to lose yet"
    with opened_ledger(files.directory, lambda: 1.8e9) as (ledger, _):
        ledger.record(Frozen(EVERY_DATASET, "an incident"))
    (line,) = shown()
    assert "none" in line
    assert "hortus budget anchor SITE_DIR FILE" in line
    assert hortus("budget", "anchor", ash, str(kept)).exit_code == 0
    SiteConfig.load(files.config).model_copy(update={"anchor": Path(kept.name)}).save(files.config)
    assert shown() == [f"anchor       entry 1 of 1, in {kept}"]
    assert status(files.directory)["anchor"] == {"file": str(kept), "entry": 1, "contained": True}
    for path in files.directory.glob("ledger.sqlite*"):
        path.unlink()
    (line,) = shown()
    assert "does not contain entry 1" in line
