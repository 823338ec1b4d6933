"""The report of a deployed run: the server's claims, called that."""

from pathlib import Path

from helpers.html_page import HtmlPage
from helpers.made_runs import SITES, make_contract, make_plan, make_round, make_store

from hortus.server.run.records import Departure
from hortus.server.web.report import report_deployment

HOSTILE = "<script>alert(1)</script>"


def test_a_deployed_run_gets_a_report_of_claims(tmp_path: Path) -> None:
    plan = make_plan(rounds=3)
    store = make_store(tmp_path, make_contract(plan), 1)
    store.commit(make_round(1, SITES[:-1], attempts=3), {})
    store.note_departure(Departure(1, "dogwood", HOSTILE))
    path = report_deployment(tmp_path, plan)
    assert path == tmp_path / "report.html"
    page = HtmlPage(path.read_text(encoding="utf-8"))
    assert page.table("As the server saw them. Each step")[1:] == [
        ["1", "50.0 %", "40.0 %", "4", "1.000", "2 for 1"],
        ["2", "75.0 %", "40.0 %", "3", "2.000", "3 for 1"],
    ]
    assert page.table("As the server saw them; ε is its claim")[1:] == [
        ["ash", "–", "2 of 2", "2.000"],
        ["birch", "–", "2 of 2", "2.000"],
        ["cedar", "–", "2 of 2", "2.000"],
        ["dogwood", "away since round 2", "1 of 2", "1.000"],
    ]
    assert page.table("Sites that refused")[1:] == [["dogwood", "2", HOSTILE, "away"]]
    assert "Nobody has to believe it" in page.text
    assert "simulation" not in page.text[: page.text.index("The plan")]
    assert "budget" not in page.plots[1], "the server knows no budget"
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
