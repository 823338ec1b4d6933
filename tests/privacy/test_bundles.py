"""A bundle is read in bounded time and memory, and commands neither a terminal nor a page."""

import gzip
import json
import multiprocessing
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.charges import approve, make_charge
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.cli.audit_json import as_json
from hortus.cli.audit_page import audit_page
from hortus.privacy.audit import evidence as evidence_module
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import Evidence, export, load, read_evidence
from hortus.privacy.audit.verdict import Reach, judge, overall
from hortus.privacy.ledger.decisions import Approved, Declined, Frozen, Granted, Withdrawn
from hortus.privacy.ledger.entries import GENESIS, Entry
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER
from hortus.server.audit_report import AuditReport, SiteReport

SITE, OWN = Identity.generate("north"), Identity.generate(SERVER)
ROSTER = Roster({"north": SITE.public_key_bytes}, OWN.public_key_bytes)
HEAD = {"format": "hortus/v2/evidence", "site": "north", "roster": ROSTER.content()}
ENTRY = Entry.make(1, 1.8e9, Granted("*", 1.0, "the board"), GENESIS, SITE)
ROW = [1, ENTRY.content, ENTRY.hash, ENTRY.signature.hex()]


def _text(*lines: Any) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _whole(*lines: Any) -> bytes:
    return _text(HEAD, *lines, {"end": len(lines)})


def test_a_bundle_of_these_lines_is_one(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(gzip.compress(_whole({"entry": ROW})))
    found = load(tmp_path / "bundle")
    assert audit(found, ROSTER).first_broken is None
    assert found.rows == ((1, ENTRY.content, ENTRY.hash, ENTRY.signature),)


SPOILT: dict[str, bytes] = {
    "nothing": b"",
    "no object": _text(HEAD, [1]),
    "cut short": _text(HEAD, {"entry": ROW}),
    "another count": _text(HEAD, {"entry": ROW}, {"end": 2}),
    "more after the end": _text(HEAD, {"end": 0}, {"entry": ROW}),
    "two in a line": _text(HEAD, {"entry": ROW, "sent": ["1" * 32, 0, 0]}, {"end": 1}),
    "unknown": _whole({"note": "hello"}),
    "a site's name that a terminal obeys": _text(HEAD | {"site": "north\x1b[8m"}, {"end": 0}),
    "a site's name with markup": _text(HEAD | {"site": "<b>"}, {"end": 0}),
    "no roster": _text(HEAD | {"roster": []}, {"end": 0}),
    "a roster of lists": _text(HEAD | {"roster": {"server": [[]] * 9999, "sites": {}}}, {"end": 0}),
    "NaN": _text(HEAD, {"countersignature": [1, "a" * 64, float("nan"), "b" * 128]}, {"end": 1}),
    "a time that is none": _whole({"countersignature": [1, "a" * 64, "nan", "b" * 128]}),
    "a time before 1970": _whole({"countersignature": [1, "a" * 64, "-0x1.0p+0", "b" * 128]}),
    "a time after all": _whole({"countersignature": [1, "a" * 64, "0x1.0p+99", "b" * 128]}),
    "a countersigned nothing": _whole({"countersignature": [1, "\x1b[8m", "0x1.0p+30", "b" * 128]}),
    "a short signature": _whole({"countersignature": [1, "a" * 64, "0x1.0p+30", "b"]}),
    "a plan's name that is a path": _whole({"contract": ["../../etc", "{}"]}),
    "half of a character": _whole({"contract": ["a" * 64, "\ud800"]}),
    "a number that is none": _whole({"entry": [True, *ROW[1:]]}),
    "a number without end": HEAD["format"].encode(),  # type: ignore[attr-defined]
    "a huge number": _text(HEAD) + b'{"sent": ["' + b"1" * 32 + b'", 1' + b"0" * 9999 + b", 0]}\n",
    "deep nesting": _text(HEAD) + b"[" * 1_000_000,
    "deep nesting of objects": _text(HEAD) + b'{"a":' * 300_000,
    "an attempt of no session": _whole({"sent": ["x", 0, 0]}),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_bundle_that_somebody_spoilt_with_care_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "spoilt"
    path.write_bytes(gzip.compress(SPOILT[name]))
    with pytest.raises(UsageError, match="not an evidence bundle") as caught:
        load(path)
    assert "\x1b" not in str(caught.value).replace("\\x1b", "")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("line", [b"0", b" "])
def test_a_bomb_costs_the_auditor_nothing(tmp_path: Path, line: bytes) -> None:
    """One line without end, or blank ones: a bundle says nothing of how large it is."""
    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(_text(HEAD) + line)
        for _ in range(64):
            file.write(line[-1:] * 2**20)
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(UsageError, match="not an evidence bundle"):
        load(path)
    assert time.process_time() - begun < 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_more_lines_than_any_ledger_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_module, "_MOST_BYTES", 200_000)
    path = tmp_path / "bundle"
    path.write_bytes(gzip.compress(_whole(*({"sent": ["1" * 32, n, 0]} for n in range(9999)))))
    with pytest.raises(UsageError, match="larger than any ledger"):
        load(path)
    monkeypatch.setattr(evidence_module, "_MOST_CONTRACTS", 10)
    path.write_bytes(gzip.compress(_whole(*({"contract": [f"{n:064x}", "{}"]} for n in range(11)))))
    with pytest.raises(UsageError, match="more plans"):
        load(path)


_WORDS = st.text(min_size=1, max_size=40).filter(str.strip) | st.sampled_from(
    ("\x1b[2J\x1b[8m", "<script>alert(1)</script>", "[red]x[/red][/]", "\u202egnp.exe", "a\0b\r\n")
)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(_WORDS, min_size=3, max_size=3), more=st.floats(1e-300, 1e300))
def test_page_and_json_are_written_whatever_a_ledger_says(words: list[str], more: float) -> None:
    bodies = (
        Granted("*", more, words[0]),
        Frozen("*", words[1]),
        Approved("a" * 64, words[0], words[1], words[2], more, 1e-5),
        Withdrawn("a" * 64, words[2], words[1], words[0]),
        Declined("a" * 64, "", 0, "", words[2]),
    )
    rows, previous = [], GENESIS
    for number, body in enumerate(bodies, start=1):
        try:
            entry = Entry.make(number, 253_402_300_799.0, body, previous, SITE)
        except UnicodeEncodeError:
            return
        rows.append((entry.seq, entry.content, entry.hash, entry.signature))
        previous = entry.hash
    seen = Countersignature.make(OWN, LedgerHead("north", 5, previous, b""), 253_402_300_799.0)
    audited = audit(Evidence("north", ROSTER, tuple(rows), (seen,), frozenset(), {}), ROSTER)
    assert audited.first_broken is None
    verdict = judge(audited, Reach(), [])
    shown = (SiteReport(audited, verdict, words[0], ""),)
    report = AuditReport(overall([("north", verdict)], []), shown, (), (), (), words[1], 1.8e9)
    page = audit_page(report)
    assert all(c.isprintable() or c == "\n" for c in page)
    assert "<script>" not in page
    page.encode()
    told = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert [one["reason"] for one in told["sites"][0]["decisions"]] == words[:2]


def _busy_agent(path: Path, go_on: Callable[[], bool]) -> None:
    """Charges, has each charge taken and its head countersigned, as fast as it can."""
    step = 0
    while go_on():
        # Closed now and then, as by an agent that is restarted: there is no log then.
        ledger = approve(Ledger.open(path, SITE, time.time))
        for _ in range(40):
            ledger.charge(make_charge(step=step, noise_multiplier=50.0), None)
            ledger.mark_sent("1" * 32, step, 0)
            head = ledger.signed_head()
            assert head is not None
            ledger.keep(Countersignature.make(OWN, head, time.time()))
            step += 1
        ledger.close()


def test_an_agent_that_is_busy_meanwhile_is_not_accused(tmp_path: Path) -> None:
    """Entries, countersignatures and what was sent are of one moment."""
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path, SITE, time.time).close()
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    agent = context.Process(target=_busy_agent, args=(path, lambda: not stop.is_set()))
    agent.start()
    try:
        reads, until = 0, time.monotonic() + 8
        while time.monotonic() < until:
            shown = read_evidence("north", path, ROSTER, {})
            reads += 1
            numbers = [row[0] for row in shown.rows]
            assert numbers == list(range(1, len(numbers) + 1))
            assert all(one.head.seq <= len(numbers) for one in shown.countersignatures)
            assert {step for _, step, _ in shown.sent} <= set(range(len(numbers) - 1))
        assert audit(shown, ROSTER).first_broken is None
        assert reads > 10
    finally:
        stop.set()
        agent.join(30)


def test_what_is_exported_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, SITE, lambda: 1.8e9)
    ledger.record(Granted("*", 1.0, "one\u2028two\x85three\x0bfour\nfive"))
    ledger.charge(make_charge(), None)
    ledger.close()
    shown = read_evidence("north", path, ROSTER, {"a" * 64: "{}"})
    export(shown, tmp_path / "bundle")
    assert load(tmp_path / "bundle") == shown
