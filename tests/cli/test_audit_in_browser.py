"""The audit's page in a real browser: nothing is cut on paper, a telephone keeps every number."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.charges import approve, make_charge, make_content
from helpers.chromium import EXECUTABLE, Page, chromium

from hortus.cli.audit_page import audit_page
from hortus.privacy.audit.evidence import export, read_evidence
from hortus.privacy.ledger.decisions import Declined, Granted
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget
from hortus.runtime.names import SERVER
from hortus.server.audit_report import make_report

pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"
)
# A cell whose text lies, in whole or in part, outside of the window.
_CUT = """[...document.querySelectorAll('td, th, p, dd, dt, caption, h1, h2')].filter((e) => {
  const range = document.createRange(); range.selectNodeContents(e);
  const box = range.getBoundingClientRect();
  return box.width > 1 && !e.closest('thead') && (box.left < -1 || box.right > innerWidth + 1);
}).map((e) => e.textContent)"""
_NUMBERS = """[...document.querySelectorAll('tbody td, tbody th')].filter((e) => {
  const box = e.getBoundingClientRect();
  return /[0-9]/.test(e.textContent) && !(box.width > 1 && box.height > 1);
}).length"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound ledger of two rounds, a grant and a refusal; and the same with a changed entry."""
    folder = tmp_path_factory.mktemp("audit")
    site = Identity.generate("north-of-the-river-hospital")
    roster = Roster({site.site: site.public_key_bytes}, Identity.generate(SERVER).public_key_bytes)
    path = folder / "ledger.sqlite"
    with closing(Ledger.open(path, site, lambda: 1.8e9)) as ledger:
        approve(ledger)
        ledger.follow(make_content("d" * 64, "Dora"))
        for step in range(2):
            ledger.charge(
                make_charge(step=step, round=step, noise_multiplier=0.5 + step, sampling_rate=0.3),
                Budget(epsilon=20, delta=1e-5),
            )
            ledger.record(Granted("*", 1.5, "the board allows it, after long thought " * 5))
        ledger.decline(
            Declined("e" * 64, "0" * 32, 2, "", "its budget is spent: " + "one more " * 20)
        )
    evidence = read_evidence(site.site, path, roster, {})
    rows = list(evidence.rows)
    rows[1] = (rows[1][0], rows[1][1].replace('"step":0', '"step":7'), *rows[1][2:])
    made = {}
    for name, shown in (("sound", evidence), ("tampered", replace(evidence, rows=tuple(rows)))):
        export(shown, folder / f"{name}.evidence")
        made[name] = folder / f"{name}.html"
        report = make_report([folder / f"{name}.evidence"], None, None, 1.8e9)
        made[name].write_text(audit_page(report), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.mark.parametrize("name", ["sound", "tampered"])
def test_nothing_is_cut_and_no_number_is_lost(
    browser: Page, pages: dict[str, Path], name: str
) -> None:
    browser.prefer()
    browser.size(1200, 900)
    browser.open(pages[name].as_uri())
    for width, media in ((1200, ""), (400, ""), (688, "print")):  # A4 within margins of 14 mm
        browser.prefer(media=media)
        browser.size(width, 900)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(_CUT) == [], (width, media)
        assert browser.run(_NUMBERS) == 0, (width, media)


def test_the_verdict_stands_first_and_last(browser: Page, pages: dict[str, Path]) -> None:
    browser.prefer()
    for name, state in (("sound", "holds so far"), ("tampered", "does not hold")):
        browser.open(pages[name].as_uri())
        told = browser.run("[...document.querySelectorAll('.state')].map((e) => e.textContent)")
        assert told == [state, state]
        words = browser.run("document.querySelector('main').innerText")
        assert words.count(f"{state.upper()}: north-of-the-river-hospital") == 2
        assert state in browser.run("document.title")
