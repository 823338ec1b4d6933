"""The page: whole in itself, whatever was named how, and whatever is missing."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hortus.privacy.entries import Charge, Charged
from hortus.privacy.ledger import Ledger
from hortus.protocol.consortium import Consortium, ServerConfig
from hortus.protocol.identity import SiteIdentity
from hortus.protocol.membership import create_consortium
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.plan_file import load_plan
from hortus.protocol.policy import Budget, Policy
from hortus.server.run_records import Departure, RoundRecord
from hortus.server.run_store import RunStore
from hortus.simulation.demo import Alone
from hortus.simulation.report import report_run
from hortus.simulation.simulate import SimulatedRun

SITES = ("ash", "birch", "cedar", "dogwood")
HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)> $\\frac{$ & \'"'
METRICS = ({"accuracy": 0.5, "macro_f1": 0.4}, {"accuracy": 0.75, "macro_f1": 0.7})
VOID = {"meta", "link", "img", "br", "hr", "input"}

RunMaker = Callable[..., tuple[SimulatedRun, Plan]]


class Page(HTMLParser):
    """Elements, cells by table and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        if tag == "tr":
            self.tables[self._caption].append([])
        if tag in {"td", "th"}:
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "caption":
            self.tables[self._caption] = []

    def handle_data(self, data: str) -> None:
        self.text += data
        if "caption" in self._open:
            self._caption += data
        if self._open and self._open[-1] in {"td", "th", "code"} and "table" in self._open:
            self.tables[self._caption][-1][-1] += data

    def table(self, start: str) -> list[list[str]]:
        (rows,) = (rows for caption, rows in self.tables.items() if caption.startswith(start))
        return rows

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Makes a finished run of two rounds without training anything."""
    return _maker(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedRun, str, Page]:
    """A run with nothing special, and its page."""
    run, plan = _maker(tmp_path_factory.mktemp("plain"))()
    return run, *_written(run, plan)


def _maker(directory: Path) -> RunMaker:

    def make(
        noise: str = "distributed",
        metrics: tuple[Mapping[str, float], ...] = METRICS,
        folder: str = "run",
        label: str = "b",
        reason: str = "its budget is spent",
    ) -> tuple[SimulatedRun, Plan]:
        bare = noise == "unsafe_none"
        plan = Plan.model_validate(
            {
                "name": "tiny",
                "seed": 3,
                "model": "model",
                "task": {"labels": ["a", label]},
                "training": {"rounds": 2, "sampling_rate": 0.5, "nominal_units": 60},
                "privacy": {"noise": noise, "epsilon": None if bare else 50.0, "delta": 1e-3},
                "simulation": {"sites": {site: f"/{site}.csv" for site in SITES}},
            }
        )
        contract = plan.contract(model_digest="c" * 64, noise_multiplier=None if bare else 2.0)
        out = directory / folder
        store = RunStore(out, contract)
        for number, values in enumerate(metrics):
            claim = None if bare else number + 1.0
            store.commit(RoundRecord(number, SITES, 2, 1, 1.5, claim, values), {})
        store.note_departure(Departure(1, "cedar", reason))
        consortium = _consortium(out / "consortium", bare)
        for site in SITES[:-1]:
            _release(consortium, site, contract, store.run, 1 if site == "cedar" else 2)
        timings = {"train": 2.0, "mask": 3.0}
        return SimulatedRun(out, contract, consortium, store, np.zeros(1, "f4"), timings), plan

    return make


def _consortium(directory: Path, bare: bool) -> Consortium:
    policy = Policy(budget=Budget(epsilon=7.25, delta=1e-3), unsafe_no_privacy=bare)
    return create_consortium(
        directory,
        {site: Path(f"/{site}.csv") for site in SITES},
        dict.fromkeys(SITES, policy),
        ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0"),
        datetime.now(UTC),
    )


def _release(consortium: Consortium, site: str, contract: Contract, run: str, rounds: int) -> None:
    files = consortium.site(site)
    identity = SiteIdentity.load(files.identity, site)
    with closing(Ledger.open(files.ledger, identity, lambda: 1.8e9)) as ledger:
        for number in range(rounds):
            charge = Charge(
                run=run,
                session="1" * 32,
                round=number,
                step=number,
                attempt=0,
                dataset="d" * 64,
                unit="record",
                mode=contract.privacy.noise.value,
                mechanism="discrete-gaussian",
                sampling_rate=0.5,
                noise_multiplier=contract.privacy.noise_multiplier or 0.0,
                clipping_norm=1.0,
                releases=1,
                delta=1e-3,
                plan=contract.digest(),
            )
            bare = contract.privacy.noise_multiplier is None
            ledger.charge(charge, None if bare else Budget(epsilon=50.0, delta=1e-3))


def _written(run: SimulatedRun, plan: Plan, **compared: Any) -> tuple[str, Page]:
    path = run.directory / "report.html"
    assert report_run(run, plan, path, **compared) == path
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def _spent(run: SimulatedRun, site: str) -> list[float]:
    files = run.consortium.site(site)
    identity = SiteIdentity.load(files.identity, site)
    with closing(Ledger.open(files.ledger, identity, lambda: 0.0)) as ledger:
        bodies = [entry.body for entry in ledger.entries()]
        return [body.epsilon_after for body in bodies if isinstance(body, Charged)]


def test_nothing_is_loaded_from_elsewhere(plain: tuple[SimulatedRun, str, Page]) -> None:
    _, text, page = plain
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.elements}
    assert "@import" not in text
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]+)", text))


def test_both_plots_are_there_and_described(plain: tuple[SimulatedRun, str, Page]) -> None:
    run, text, page = plain
    assert len(page.named("svg")) == 2
    accuracy, epsilon = (a["aria-label"] for a in page.named("div") if a.get("role") == "img")
    assert accuracy == (
        "Plot of accuracy, %, by round. this run: 50 after round 1, 75 after round 2."
    )
    first, last = _spent(run, "ash")
    assert f"ash, birch: {first:.4g} after round 1, {last:.4g} after round 2" in str(epsilon)
    assert f"cedar: {first:.4g} after round 1, {first:.4g} after round 1" in str(epsilon)
    assert "dashed line, budget 7.25: 7.25" in str(epsilon)
    assert "currentColor" in text
    assert "#010203" not in text


def test_ids_are_distinct_and_every_reference_is_met(plain: tuple[SimulatedRun, str, Page]) -> None:
    _, text, page = plain
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)


def test_tables_say_what_store_ledgers_and_policies_say(
    plain: tuple[SimulatedRun, str, Page],
) -> None:
    run, _, page = plain
    first, last = _spent(run, "ash")
    assert page.table("As the server saw")[1:] == [
        ["1", "50.0 %", "40.0 %", "4", "1 / 2", "1.000", "1.5"],
        ["2", "75.0 %", "70.0 %", "4", "1 / 2", "2.000", "1.5"],
    ]
    assert page.table("From each site's")[1:] == [
        ["ash", f"{last:.3f}", "7.250", "0.001", "2", "–"],
        ["birch", f"{last:.3f}", "7.250", "0.001", "2", "–"],
        ["cedar", f"{first:.3f}", "7.250", "0.001", "1", "round 2: its budget is spent"],
        ["dogwood", "0.000", "7.250", "0.001", "0", "–"],
    ]
    assert page.table("Summed over")[1:] == [["mask", "3.0"], ["train", "2.0"]]
    exact = dict(row for row in page.table("What exactly") if len(row) == 2)
    assert exact["contract digest"] == run.contract.digest()
    assert exact["base model digest"] == "c" * 64
    assert exact["seed"] == "3"
    versions = {name for name, _ in page.table("Versions")}
    assert {"hortus", "flwr", "torch", "dp-accounting", "cryptography"} <= versions


def test_entries_of_other_runs_count_as_spent_but_are_not_drawn(make_run: RunMaker) -> None:
    run, plan = make_run()
    _release(run.consortium, "dogwood", run.contract, "f" * 32, 2)
    _, page = _written(run, plan)
    assert page.table("From each site's")[4][1] == f"{_spent(run, 'dogwood')[-1]:.3f}"
    labels = [a["aria-label"] for a in page.named("div") if a.get("role") == "img"]
    assert "dogwood" not in str(labels)


def test_a_site_that_released_nothing_gets_no_ledger(plain: tuple[SimulatedRun, str, Page]) -> None:
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
    alone = [Alone(HOSTILE, 3, {"accuracy": 0.9}), Alone("ash", 3, {"accuracy": 0.2})]
    text, page = _written(run, plan, alone=alone)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "<script" not in text
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert HOSTILE in page.table("From each site's")[3][-1]
    assert f"best single site alone ({HOSTILE})" in page.text


def test_comparison_has_every_model(make_run: RunMaker) -> None:
    run, plan = make_run()
    bare, _ = make_run("unsafe_none", folder="bare")
    _, page = _written(run, plan, without_privacy=bare, alone=[Alone("ash", 9, {"accuracy": 0.25})])
    assert page.table("At the end")[1:] == [
        ["ash alone, without privacy", "25.0 %", "–"],
        ["federated, this run", "75.0 %", "70.0 %"],
        ["federated, without privacy", "75.0 %", "70.0 %"],
    ]
    label = page.named("div")[1]["aria-label"]
    assert "without privacy: 50 after round 1" in str(label)
    assert "dashed line, best single site alone (ash): 25" in str(label)


def test_without_noise_there_is_no_bound(make_run: RunMaker) -> None:
    run, plan = make_run("unsafe_none")
    _, page = _written(run, plan)
    assert [row[5] for row in page.table("As the server saw")[1:]] == ["no bound", "no bound"]
    spent = {row[0]: row[1] for row in page.table("From each site's")[1:]}
    assert spent["ash"] == "no bound"
    assert spent["dogwood"] == "0.000"
    assert "No noise, so no bound" in page.text
    assert "Nothing is promised to anybody" in page.text
    assert "inf" not in json.dumps(page.table("From each site's"))


def test_metrics_and_rounds_may_be_missing(make_run: RunMaker) -> None:
    run, plan = make_run(metrics=({}, {}))
    _, page = _written(run, plan, alone=[Alone("ash", 9, {})])
    assert page.table("As the server saw")[1][1:3] == ["–", "–"]
    assert "The plan names no evaluation records." in page.text
    unfinished, plan = make_run(metrics=(), folder="unfinished")
    _, page = _written(unfinished, plan)
    assert "no round finished" in page.text
    assert len(page.named("svg")) == 2


def test_the_same_run_gives_the_same_page(make_run: RunMaker) -> None:
    run, plan = make_run()
    assert _written(run, plan)[0] == _written(run, plan)[0]
