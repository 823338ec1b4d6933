"""The live view over HTTP: who may look, what may be done, what it says."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from helpers.made_runs import (
    generated,
    make_consortium,
    make_contract,
    make_plan,
    make_round,
    make_store,
    release,
)

from hortus.pages.live import Watcher, page_app
from hortus.server.run.records import Departure
from hortus.server.web.dashboard import RunSource

HOSTILE = "<script>alert('1')</script><img src=x onerror=alert(1)>"
TOKEN = "t" * 43


def reader(directory: Path, token: str | None = None, base: str = "http://127.0.0.1") -> TestClient:
    app = page_app(Watcher(RunSource(directory)), token)
    return TestClient(app, base_url=base, follow_redirects=False)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program itself; yields its address."""
    command = [str(Path(sys.executable).with_name("hortus")), "dashboard", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert " at http" in line
        yield process, line.split(" at ")[1].strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def next_view(lines: Iterator[str]) -> dict[str, Any]:
    data = next(line for line in lines if line.startswith("data: "))
    view: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return view


def test_the_page_shows_the_run(tmp_path: Path) -> None:
    contract = make_contract(make_plan())
    store = make_store(tmp_path, contract, 2)
    release(make_consortium(tmp_path), "ash", contract, store.run, (0, 1))
    page = reader(tmp_path).get("/").text
    for shown in (
        "tiny",
        "75.0 %",
        contract.digest(),
        "dogwood",
        "No site has refused or been away.",
    ):
        assert shown in page
    assert page.count('<svg class="broad"') == 2


def test_the_page_shows_whatever_is_measured_also_where_it_was_opened_before_the_first_round(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path, make_contract(make_plan()), 0)
    watcher = Watcher(RunSource(tmp_path))
    assert "perplexity" not in watcher.page()
    store.commit(make_round(0, metrics=generated(31.5)), {})
    store.commit(make_round(1, metrics=generated(18.0204)), {})
    shown = watcher.shown()
    assert shown.said == "2 of 2 rounds are done. Perplexity 18.02."
    assert "<dt>Perplexity</dt>" in shown.parts["tiles"]
    assert "ROUGE-L 31.2" in shown.parts["tiles"]
    names = re.findall(r"<th[^>]*>([^<]*)", shown.parts["round-columns"])
    assert names[:3] == ["round", "perplexity", "ROUGE-L"]
    first = re.findall(r"<t[hd][^>]*>([^<]*)", shown.parts["round-rows"])[: len(names)]
    assert first[:3] == ["2", "18.02", "31.2"]
    assert "31.5 after round 1, 18.02 after round 2" in shown.parts["plots"]
    assert "accuracy" not in watcher.page().lower()


def test_nothing_can_be_written(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    client = reader(tmp_path)
    for path in ("/", "/events", "/style.css", "/live.js", "/icon.svg"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert client.request(method, path).status_code == 405
    for path in ("/docs", "/openapi.json", "/redoc", "/../contract.json", "/contract.json"):
        assert client.get(path).status_code == 404


def test_every_answer_forbids_what_the_page_does_not_need(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    client = reader(tmp_path)
    for path in ("/", "/style.css", "/live.js", "/icon.svg", "/no"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
    page = client.get("/").text
    assert "style=" not in page, "a style attribute would be dropped under this policy"
    assert " on" not in {part[:3] for part in page.split("<script")[1:]}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8300", "127.0.0.1.evil.example", ""]
)
def test_on_loopback_a_foreign_name_is_refused(tmp_path: Path, host: str) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    assert reader(tmp_path).get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8300", "127.0.0.1:1", "[::1]:8300"])
def test_on_loopback_this_machines_names_are_answered(tmp_path: Path, host: str) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    assert reader(tmp_path).get("/", headers={"host": host}).status_code == 200


def test_elsewhere_a_token_is_asked_for(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    client = reader(tmp_path, TOKEN, "http://server.example")
    for path in ("/", "/events", "/style.css", "/?token=", f"/?token={TOKEN[:-1]}", "/?token=ü"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "tiny" not in answer.text
    entered = client.get(f"/?token={TOKEN}")
    assert entered.status_code == 303
    assert entered.headers["location"] == "/", "the token does not stay in the address"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert client.get("/").status_code == 200
    client.cookies.clear()
    client.cookies.set("hortus-dashboard", "t")
    assert client.get("/").status_code == 401


def test_what_sites_say_stays_text(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_contract(make_plan()), 1)
    store.note_departure(Departure(0, HOSTILE, HOSTILE))
    watcher = Watcher(RunSource(tmp_path))
    for text in (watcher.page(), *watcher.shown().parts.values()):
        assert "<script>" not in text
        assert "<img" not in text
    assert "&lt;script&gt;" in watcher.shown().parts["away-rows"]


def test_a_view_is_made_once_for_all_who_look(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_contract(make_plan()), 1)
    watcher = Watcher(RunSource(tmp_path))
    before = watcher.shown()
    assert watcher.shown() is before
    store.commit(make_round(1), {})
    assert watcher.shown() is not before
    assert watcher.shown() is watcher.shown()


def test_a_file_that_cannot_be_read_for_a_moment_keeps_the_last_view(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_contract(make_plan()), 1)
    watcher = Watcher(RunSource(tmp_path))
    whole = (tmp_path / "run.sqlite").read_bytes()
    (tmp_path / "run.sqlite").write_bytes(b"")
    assert "1 <small>of 2</small>" in watcher.shown().parts["tiles"]
    assert "cannot be read" in watcher.shown().parts["problem"]
    (tmp_path / "run.sqlite").write_bytes(whole)
    assert watcher.shown().parts["problem"] == ""
    store.commit(make_round(1), {})
    assert "2 <small>of 2</small>" in watcher.shown().parts["tiles"]


def test_the_program_follows_a_run_and_ends_when_told_to(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_contract(make_plan(rounds=3)), 0)
    with (
        serving(str(tmp_path), "--port", "0") as (process, address),
        httpx.stream("GET", f"{address}events", timeout=60) as stream,
    ):
        lines = stream.iter_lines()
        assert "waits" in next_view(lines)["said"]
        store.commit(make_round(0), {})
        started = time.monotonic()
        told = next_view(lines)
        assert time.monotonic() - started < 15
        assert told["said"] == "1 of 3 rounds are done. Accuracy 50.0 %."
        assert told["title"].startswith("1/3 ")
        store.note_departure(Departure(1, "cedar", "its budget is spent"))
        assert "its budget is spent" in next_view(lines)["parts"]["away-rows"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_the_program_prints_a_token_where_others_can_reach_it(tmp_path: Path) -> None:
    make_store(tmp_path, make_contract(make_plan()), 1)
    with serving(str(tmp_path), "--host", "0.0.0.0", "--port", "0") as (process, address):
        query = address.partition("/?token=")
        assert len(query[2]) >= 43
        own = query[0].replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(own).status_code == 401
        with httpx.Client(follow_redirects=True) as client:
            assert client.get(f"{own}/?token={query[2]}").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
