"""The page: whole in itself, whatever was named how, and whatever is missing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.html_page import HtmlPage
from helpers.made_runs import (
    SITES,
    by_label,
    classified,
    generated,
    make_consortium,
    make_contract,
    make_plan,
    make_round,
    release,
    spent,
)

from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.metric import Metrics
from hortus.server.run.records import Departure
from hortus.server.run.store import RunStore
from hortus.simulation.demo import Alone
from hortus.simulation.report import report_run
from hortus.simulation.simulate import SimulatedRun

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)> $\\frac{$ & \'"'
METRICS = (classified(0.5, 0.4), classified(0.75, 0.7))

RunMaker = Callable[..., tuple[SimulatedRun, Plan]]


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Makes a finished run of two rounds without training anything."""
    return _maker(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedRun, str, HtmlPage]:
    """A run with nothing special, and its page."""
    run, plan = _maker(tmp_path_factory.mktemp("plain"))()
    return run, *_written(run, plan)


def _maker(directory: Path) -> RunMaker:
    def make(
        noise: str = "distributed",
        metrics: tuple[Metrics, ...] = METRICS,
        folder: str = "run",
        label: str = "b",
        reason: str = "its budget is spent",
    ) -> tuple[SimulatedRun, Plan]:
        bare = noise == "unsafe_none"
        plan = make_plan(noise, task={"labels": ["a", label]})
        contract = make_contract(plan)
        out = directory / folder
        store = RunStore(out, contract)
        for number, values in enumerate(metrics):
            store.commit(make_round(number, metrics=values, bare=bare), {})
        store.note_departure(Departure(1, "cedar", reason))
        consortium = make_consortium(out, bare=bare)
        for site in SITES[:-1]:
            release(consortium, site, contract, store.run, range(1 if site == "cedar" else 2))
        timings = {"train": 2.0, "mask": 3.0}
        return SimulatedRun(out, contract, consortium, store, np.zeros(1, "f4"), timings), plan

    return make


def _written(run: SimulatedRun, plan: Plan, **compared: Any) -> tuple[str, HtmlPage]:
    path = run.directory / "report.html"
    report_run(run.directory, plan, path, **compared)
    text = path.read_text(encoding="utf-8")
    return text, HtmlPage(text)


def test_nothing_is_loaded_from_elsewhere(plain: tuple[SimulatedRun, str, HtmlPage]) -> None:
    _, text, page = plain
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.elements}
    assert "@import" not in text
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]+)", text))


def test_both_plots_are_there_and_described(plain: tuple[SimulatedRun, str, HtmlPage]) -> None:
    run, text, page = plain
    assert len(page.plots) == 2
    accuracy, epsilon = page.plots
    assert accuracy == (
        "Plot of accuracy, %, by round. this run: 50 after round 1, 75 after round 2."
    )
    first, last = spent(run.consortium, "ash")
    assert f"ash, birch: {first:.4g} after round 1, {last:.4g} after round 2" in str(epsilon)
    assert f"cedar: {first:.4g} after round 1, {first:.4g} after round 1" in str(epsilon)
    assert "dashed line, budget 7.25: 7.25" in str(epsilon)
    assert "currentColor" in text
    assert "#010203" not in text


def test_ids_are_distinct_and_every_reference_is_met(
    plain: tuple[SimulatedRun, str, HtmlPage],
) -> None:
    _, text, page = plain
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)


def test_tables_say_what_store_ledgers_and_policies_say(
    plain: tuple[SimulatedRun, str, HtmlPage],
) -> None:
    run, _, page = plain
    first, last = spent(run.consortium, "ash")
    assert page.table("As the server saw")[1:] == [
        ["1", "50.0 %", "40.0 %", "4", "1.000", "2 for 1"],
        ["2", "75.0 %", "70.0 %", "4", "2.000", "2 for 1"],
    ]
    assert page.table("From each site’s own")[1:] == [
        ["ash", "–", "2 of 2", f"{last:.3f}", share(last), "7.25 at δ = 0.001", "2"],
        ["birch", "–", "2 of 2", f"{last:.3f}", share(last), "7.25 at δ = 0.001", "2"],
        ["cedar", "–", "2 of 2", f"{first:.3f}", share(first), "7.25 at δ = 0.001", "1"],
        ["dogwood", "–", "2 of 2", "0.000", "0 %", "7.25 at δ = 0.001", "0"],
    ]
    assert page.table("Sites that refused")[1:] == [
        ["cedar", "2", "its budget is spent", "came back in round 2"]
    ]
    assert "seconds" not in page.text, "records decide them, and reports are passed on"
    exact = dict(row for row in page.table("What exactly") if len(row) == 2)
    assert exact["contract digest"] == run.contract.digest()
    assert exact["base model digest"] == "c" * 64
    assert exact["seed"] == "3"
    versions = {name for name, _ in page.table("Versions")}
    assert {"hortus", "flwr", "torch", "dp-accounting", "cryptography"} <= versions


def share(epsilon: float) -> str:
    return f"{100 * epsilon / 7.25:.0f} %"


def test_entries_of_other_runs_count_as_spent_but_are_not_drawn(make_run: RunMaker) -> None:
    run, plan = make_run()
    release(run.consortium, "dogwood", run.contract, "f" * 32, range(2))
    _, page = _written(run, plan)
    assert page.table("From each site’s own")[4][3] == f"{spent(run.consortium, 'dogwood')[-1]:.3f}"
    assert "dogwood" not in str(page.plots)


def test_a_site_that_released_nothing_gets_no_ledger(
    plain: tuple[SimulatedRun, str, HtmlPage],
) -> None:
    run, _, _ = plain
    assert not run.consortium.site("dogwood").ledger.exists()


def test_the_plan_on_the_page_is_the_plan(make_run: RunMaker, tmp_path: Path) -> None:
    run, plan = make_run(label=HOSTILE)
    _, page = _written(run, plan)
    shown = page.text[page.text.index("\nname: tiny") :].strip()
    (tmp_path / "again.yaml").write_text(shown, encoding="utf-8")
    assert load_plan(tmp_path / "again.yaml") == plan
    assert yaml.safe_load(shown)["name"] == "tiny"


def test_hostile_names_stay_text(make_run: RunMaker) -> None:
    run, plan = make_run(folder="a '<b>' $x", label=HOSTILE, reason=HOSTILE)
    alone = [Alone(HOSTILE, 3, classified(0.9)), Alone("ash", 3, classified(0.2))]
    text, page = _written(run, plan, alone=alone)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "<script" not in text
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert page.table("Sites that refused")[1][2] == HOSTILE
    assert f"best single site alone ({HOSTILE})" in page.text


def test_comparison_has_every_model(make_run: RunMaker) -> None:
    run, plan = make_run()
    bare, _ = make_run("unsafe_none", folder="bare")
    _, page = _written(
        run, plan, without_privacy=bare.directory, alone=[Alone("ash", 9, classified(0.25))]
    )
    assert page.table("At the end")[1:] == [
        ["ash alone, without privacy", "25.0 %", "–"],
        ["federated, this run", "75.0 %", "70.0 %"],
        ["federated, without privacy", "75.0 %", "70.0 %"],
    ]
    label = page.plots[0]
    assert "without privacy: 50 after round 1" in str(label)
    assert "dashed line, best single site alone (ash): 25" in str(label)


def test_whatever_was_measured_is_shown_and_compared(make_run: RunMaker) -> None:
    run, plan = make_run(metrics=(generated(23.0, 20.0), generated(25.5, 31.0)))
    bare, _ = make_run("unsafe_none", (generated(12.0, 44.0),), folder="bare")
    alone = [Alone(site, 9, generated(value)) for site, value in (("ash", 90.0), ("birch", 70.0))]
    text, page = _written(run, plan, without_privacy=bare.directory, alone=alone)
    assert [row[:3] for row in page.table("As the server saw")] == [
        ["round", "perplexity", "ROUGE-L"],
        ["1", "23", "20.0"],
        ["2", "25.5", "31.0"],
    ]
    assert page.table("On the public evaluation") == [
        ["metric", "last\xa0round", "round\xa01, the\xa0best", "what it means"],
        ["perplexity", "25.5", "23", generated(1.0)[1].explained],
        ["ROUGE-L", "31.0", "20.0", "Higher is better."],
    ]
    assert page.table("At the end")[0] == ["model", "perplexity", "ROUGE-L"]
    assert page.table("At the end")[-1] == ["federated, without privacy", "12", "44.0"]
    assert str(page.plots[0]).startswith("Plot of perplexity (lower is better), by round.")
    assert "dashed line, best single site alone (birch): 70" in str(page.plots[0])
    assert page.table("What the result")[:3] == [
        ["perplexity reached", "25.5"],
        ["best site alone, without privacy", "70"],
        ["the same plan without privacy", "12"],
    ]
    assert "Privacy raises perplexity from 12 to 25.5." in page.text
    assert "accuracy" not in text.lower()


def test_a_metric_is_broken_down_with_the_worst_label_first(make_run: RunMaker) -> None:
    scores = {"a": 0.9, HOSTILE: 0.25, "lost": None}
    run, plan = make_run(metrics=(by_label(0.8, {"a": 0.7}), by_label(0.6, scores)))
    text, page = _written(run, plan)
    assert page.table("F1 by label") == [
        ["label", "records", "last\xa0round", "round\xa01, the\xa0best"],
        ["lost", "20", "not finite", "–"],
        [HOSTILE, "20", "25.0 %", "–"],
        ["a", "20", "90.0 %", "70.0 %"],
    ]
    assert "<script" not in text
    tables = _written(*make_run(folder="whole"))[1].tables
    assert not [caption for caption in tables if " by label" in caption]


def test_a_run_whose_metric_diverged_still_has_a_page(make_run: RunMaker) -> None:
    run, plan = make_run(metrics=(generated(None), generated(None)))
    _, page = _written(run, plan, alone=[Alone("ash", 9, generated(None))])
    assert page.table("As the server saw")[1][1] == "not finite"
    assert "Perplexity was finite after no round." in page.text
    assert "training has diverged" in page.text


def test_without_noise_there_is_no_bound(make_run: RunMaker) -> None:
    run, plan = make_run("unsafe_none")
    _, page = _written(run, plan)
    assert [row[4] for row in page.table("As the server saw")[1:]] == ["no bound", "no bound"]
    bounds = {row[0]: row[3] for row in page.table("From each site’s own")[1:]}
    assert bounds["ash"] == "no bound"
    assert bounds["dogwood"] == "0.000"
    assert "No noise, so no bound" in page.text
    assert "Nothing is promised to anybody" in page.text
    assert "inf" not in json.dumps(page.table("From each site’s own"))


def test_metrics_and_rounds_may_be_missing(make_run: RunMaker) -> None:
    run, plan = make_run(metrics=((), ()))
    _, page = _written(run, plan, alone=[Alone("ash", 9, ())])
    assert page.table("As the server saw") == [
        ["round", "sites", "ε claimed", "attempts for sums"],
        ["1", "4", "1.000", "2 for 1"],
        ["2", "4", "2.000", "2 for 1"],
    ]
    assert "The plan names no evaluation records." in page.text
    unfinished, plan = make_run(metrics=(), folder="unfinished")
    _, page = _written(unfinished, plan)
    assert "no round finished" in page.text
    assert len(page.plots) == 2


def test_the_same_run_gives_the_same_page(make_run: RunMaker) -> None:
    run, plan = make_run()
    assert _written(run, plan)[0] == _written(run, plan)[0]
