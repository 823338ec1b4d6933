"""The live view in a real browser: seen, operated by keyboard, and not too loud."""

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.chromium import EXECUTABLE, Page, chromium
from helpers.made_runs import (
    make_consortium,
    make_contract,
    make_plan,
    make_round,
    make_store,
    release,
)
from PIL import Image

from hortus.protocol.plan import Contract
from hortus.server.run.records import Departure
from hortus.server.run.store import RunStore

pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"
)

ROUNDS = 40
FIRST = 12
# Walks over all text and gives [ratio, text] of the least contrast (WCAG 2.2, 1.4.3).
LEAST_CONTRAST = """
(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a !== 0) throw new Error("a translucent background is not reckoned with");
    }
    return [255, 255, 255];
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  let least = [Infinity, "", 0];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const colour = parse(element.closest("svg") ? style.fill : style.color);
    const found = ratio(colour, behind(element));
    least = [...(found < least[0] ? [found, node.textContent] : least.slice(0, 2)), least[2] + 1];
  }
  return least;
})()
"""
FOCUSED = """
(() => {
  const e = document.activeElement, style = getComputedStyle(e);
  return [e.id || e.getAttribute("aria-labelledby") || e.className || e.tagName,
          style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
})()
"""


class Running:
    """A run that goes on while somebody looks."""

    def __init__(self, directory: Path) -> None:
        self.contract: Contract = make_contract(make_plan(rounds=ROUNDS))
        self.store: RunStore = make_store(directory, self.contract, FIRST)
        consortium = make_consortium(directory)
        release(consortium, "ash", self.contract, self.store.run, range(3))
        self.store.note_departure(Departure(3, "dogwood", "its budget is spent: step 3"))

    def go_on(self) -> int:
        number = self.store.next_round
        self.store.commit(make_round(number), {})
        return number + 1


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    directory = tmp_path_factory.mktemp("run")
    run = Running(directory)
    program = str(Path(sys.executable).with_name("hortus"))
    command = [program, "dashboard", str(directory), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield run, process.stdout.readline().split(" at ")[1].strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page, running: tuple[Running, str]) -> Page:
    browser.complaints.clear()
    browser.size(1280, 900)
    browser.prefer()
    browser.open(running[1])
    browser.wait_until("!document.getElementById('pause').hidden")
    return browser


def rounds_shown(page: Page) -> int:
    return int(page.run("document.querySelectorAll('#round-rows tr').length"))


def hue(page: Page, variable: str) -> tuple[int, ...]:
    colour = page.run(f"getComputedStyle(document.documentElement).getPropertyValue('{variable}')")
    return tuple(bytes.fromhex(str(colour).strip().removeprefix("#")))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screenshot_shows_curves_tiles_and_text(page: Page, tmp_path: Path, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    page.screenshot(tmp_path / "page.png")
    image = Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())).convert("RGB")
    found = image.getcolors(maxcolors=2**24)
    assert found is not None
    counts = {colour: count for count, colour in found}
    assert min(counts[hue(page, "--paper")], counts[hue(page, "--card")]) > 100_000
    assert counts[hue(page, "--curve-1")] > 100, "curves"
    assert counts[hue(page, "--ink")] > 1_000, "text"
    assert len(counts) > 50


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(page: Page, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    ratio, text, looked_at = page.run(LEAST_CONTRAST)
    assert looked_at > 100
    assert ratio >= 4.5, text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_and_focus_stand_out_from_what_is_behind_them(page: Page, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    lines = ["--focus", *(f"--curve-{number}" for number in range(1, 7))]
    for line in lines:
        for ground in ("--paper", "--card"):
            low, high = sorted(luminance(hue(page, name)) for name in (line, ground))
            assert (high + 0.05) / (low + 0.05) >= 3, (line, ground)


def luminance(colour: tuple[int, ...]) -> float:
    """WCAG 2.2, relative luminance."""
    shares = [part / 255 for part in colour]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_tab_reaches_every_control_in_order_and_shows_where_it_is(page: Page) -> None:
    reached = []
    for _ in range(5):
        page.press("Tab")
        name, visible = page.run(FOCUSED)
        reached.append(name)
        assert visible, name
    assert reached == ["skip", "pause", "sites", "away", "rounds"]
    reachable = page.run("[...document.querySelectorAll('a, button, [tabindex=\"0\"]')].length")
    assert reachable == len(reached), "and there is no other"


def test_the_first_link_skips_to_the_run(page: Page) -> None:
    page.press("Tab")
    page.press("Enter")
    page.wait_until("document.activeElement.id === 'view'")


def test_a_finished_round_appears_without_taking_the_readers_place(
    page: Page, running: tuple[Running, str]
) -> None:
    before = rounds_shown(page)
    page.run(
        "document.querySelector('.tall').focus(); document.querySelector('.tall').scrollTop = 40"
    )
    done = running[0].go_on()
    page.wait_until(f"document.querySelectorAll('#round-rows tr').length === {before + 1}")
    assert page.run("document.querySelector('#tiles .value').textContent").split() == [
        *(str(done), "of", str(ROUNDS))
    ]
    assert page.run("document.title").startswith(f"{done}/{ROUNDS}")
    assert page.run("document.activeElement.className").split() == ["wide", "tall", "card"]
    assert page.run("document.querySelector('.tall').scrollTop") == 40
    assert page.complaints == [], "the content policy was not in the way"


def test_updates_can_be_paused_by_keyboard(page: Page, running: tuple[Running, str]) -> None:
    page.press("Tab")
    page.press("Tab")
    page.press(" ")
    assert page.run("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    before = rounds_shown(page)
    running[0].go_on()
    page.wait_until("waiting !== null")
    assert rounds_shown(page) == before
    page.press(" ")
    page.wait_until(f"document.querySelectorAll('#round-rows tr').length > {before}")
    assert rounds_shown(page) == before + 1


def test_a_screen_reader_is_not_told_every_round(page: Page, running: tuple[Running, str]) -> None:
    for _ in range(2):
        before = rounds_shown(page)
        running[0].go_on()
        page.wait_until(f"document.querySelectorAll('#round-rows tr').length > {before}")
    time.sleep(1.5)
    assert page.run("said.textContent") == "", "nothing in the first seconds"
    page.run("heard = 0")
    page.wait_until("said.textContent !== ''")
    done = rounds_shown(page)
    assert page.run("said.textContent").startswith(f"{done} of {ROUNDS} rounds are done.")
    assert page.run("document.querySelectorAll('[role=status], [aria-live]').length") == 1


def test_who_prefers_less_motion_sees_none(page: Page) -> None:
    motion: dict[str, Any] = {}
    for wish in ("no-preference", "reduce"):
        page.prefer(prefers_reduced_motion=wish)
        motion[wish] = page.run("getComputedStyle(document.querySelector('.dot')).animationName")
    assert motion == {"no-preference": "breathe", "reduce": "none"}


def test_each_plot_is_described_and_its_numbers_stand_in_a_table(page: Page) -> None:
    labels = page.run("[...document.querySelectorAll('[role=img]')].map((e) => e.ariaLabel)")
    assert len(labels) == 2
    assert labels[0].startswith("Plot of accuracy, %, by round. this run: 50 after round 1")
    assert "ash" in labels[1]
    captions = page.run("[...document.querySelectorAll('caption')].map((e) => e.textContent)")
    assert len(captions) == 3


def test_on_paper_nothing_is_cut_off(page: Page) -> None:
    page.prefer(media="print")
    assert page.run("getComputedStyle(document.getElementById('pause')).display") == "none"
    assert page.run("getComputedStyle(document.querySelector('.tall')).overflowY") == "visible"
    page.size(688, 1000)  # A4 within margins of 14 mm
    assert page.run(
        "[...document.querySelectorAll('.wide')].every((e) => e.scrollWidth <= e.clientWidth)"
    )
    page.size(360, 700)
    page.prefer()
    assert page.run("document.documentElement.scrollWidth") <= 360, "nor on a telephone"


def test_on_a_telephone_every_number_is_in_sight(page: Page) -> None:
    page.size(400, 900)
    hidden = page.run(
        "[...document.querySelectorAll('td, tbody th, .tile dd')].filter((e) => {"
        " const box = e.getBoundingClientRect();"
        " return box.right > document.documentElement.clientWidth || e.scrollWidth > e.clientWidth + 1;"
        "}).map((e) => e.textContent)"
    )
    assert hidden == []
    boxes = page.run(
        "['.mark', '#state', '#pause'].map((s) => document.querySelector(s).getBoundingClientRect().top)"
    )
    assert max(boxes) - min(boxes) < 20, "all in one line"
    labels = page.run(
        "[...document.querySelectorAll('#site-rows td')].map("
        "(e) => getComputedStyle(e, '::before').content)"
    )
    assert '"ε spent: "' in {label.replace('" "', "") for label in labels}, labels[:4]


def test_nothing_comes_from_elsewhere(page: Page, running: tuple[Running, str]) -> None:
    loaded = page.run("performance.getEntriesByType('resource').map((e) => e.name)")
    assert {name.removeprefix(running[1]) for name in loaded} >= {"style.css", "live.js"}
    assert all(name.startswith(running[1]) for name in loaded)
