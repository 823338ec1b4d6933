"""The server says who is there, who is waited for and who is down, by name, and nothing of records."""

import logging
import threading
from pathlib import Path

import pytest

from hortus.protocol.descriptor import Descriptor
from hortus.runtime.errors import HortusError
from hortus.server.news import Reporter, news
from hortus.server.run.attendance import (
    Attendance,
    AttendanceBook,
    Said,
    Stage,
    attended,
    is_attended,
    read_attendance,
    watching,
)
from hortus.server.sums.machine import SessionMachine
from hortus.server.sums.states import SiteEvent

SITES = ("ash", "birch", "cedar")
DESCRIPTOR = Descriptor(
    run="a" * 32,
    session="b" * 32,
    contract="c" * 64,
    cohort=SITES,
    first_round=0,
    dimension=8,
    ring_bits=32,
    scale=1024,
)
NODES = {70: "ash", 71: "birch", 72: "cedar"}


class Clock:
    """Seconds since the epoch, a minute later at each look."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        self.now += 60
        return self.now


@pytest.fixture
def book(tmp_path: Path) -> AttendanceBook:
    return AttendanceBook(tmp_path, SITES, Clock(), NODES)


def lines(before: Attendance, after: Attendance) -> list[str]:
    return [line for _, line in news(before, after)]


def test_it_names_whom_it_waits_for_until_all_are_there(book: AttendanceBook) -> None:
    book.begin(Stage.CONNECTING)
    before = book.now
    assert before.in_words == "waiting for sites to connect: ash, birch, cedar"
    book.see([71, 99])
    after = book.now
    assert lines(before, after) == [
        "birch is connected",
        "waiting for sites to connect: ash, cedar",
    ]
    book.see([70, 71, 72])
    assert book.now.awaited == []


def test_a_site_that_is_gone_is_down_with_the_time_and_is_told_again_when_it_is_back(
    book: AttendanceBook,
) -> None:
    book.see([70, 71, 72])
    there = book.now
    book.see([70, 71])
    gone = book.now
    book.see([70, 71])
    assert book.now == gone, "the time is that of the last contact, not of the last look"
    assert news(there, gone) == [
        (logging.WARNING, "cedar is down: last heard 2027-01-15 08:01:00 UTC")
    ]
    book.see(NODES)
    assert lines(gone, book.now) == ["cedar is connected again"]


def test_answers_are_told_by_name_as_they_come(book: AttendanceBook) -> None:
    book.see(NODES)
    told = []
    for act in (
        book.ask,
        lambda: book.hear("ash", Said.YES),
        lambda: book.hear("birch", Said.LATER, "it is preparing"),
        lambda: book.hear("cedar", Said.NO, "its budget is spent"),
        lambda: book.hear("birch", Said.YES),
    ):
        before = book.now
        act()
        told.append(lines(before, book.now))
    wait = str(Stage.ASKING)
    assert told == [
        [f"{wait}: ash, birch, cedar"],
        ["ash takes part", f"{wait}: birch, cedar"],
        ["birch is preparing: it is preparing"],
        ["cedar refuses: its budget is spent", f"{wait}: birch"],
        ["birch takes part", wait],
    ]


def test_what_gives_no_valid_answer_is_named_by_its_supernode(book: AttendanceBook) -> None:
    book.see(NODES)
    book.ask()
    before = book.now
    book.miss([71, 99])
    assert lines(before, book.now) == ["birch gave no valid answer in time: its own log says why"]
    assert book.now.sites["birch"].in_words == "connected, gave no valid answer in time"


def test_rounds_count_from_one_and_a_sum_that_is_formed_again_is_told(
    book: AttendanceBook,
) -> None:
    left: dict[str, str] = {}
    book.see(NODES)
    book.join(SITES, lambda: left)
    before = book.now
    book.sum(1, 1, 4)
    assert lines(before, book.now) == ["round 1 begins"]
    left["birch"] = "its connection was lost"
    before = book.now
    book.again(2)
    assert lines(before, book.now) == [
        "birch has left the session: its connection was lost",
        "round 1: step 1 of 4, attempt 2: a site dropped out, and the others repeat the sum",
    ]
    assert book.now.sites["ash"].in_words == "in the session"
    assert "lost" in book.now.sites["birch"].why
    book.leave()
    assert not any(seen.joined for seen in book.now.sites.values())


def test_others_read_what_is_written_and_see_whether_anybody_is_at_work(
    tmp_path: Path, book: AttendanceBook
) -> None:
    book.see([70])
    assert read_attendance(tmp_path) == book.now
    assert not is_attended(tmp_path)
    with attended(tmp_path):
        assert is_attended(tmp_path)
        with pytest.raises(HortusError, match="another process is working"), attended(tmp_path):
            pass
    assert not is_attended(tmp_path)
    for damaged in (b"", b"{", b'{"stage": "no such"}', b'{"round": -1}', b"\xff"):
        (tmp_path / "attendance.json").write_bytes(damaged)
        assert read_attendance(tmp_path) is None


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    book = AttendanceBook(tmp_path / "nowhere", SITES, Clock(), NODES)
    book.see(NODES)
    assert not book.now.awaited


def test_a_watcher_outlives_what_flower_raises(book: AttendanceBook) -> None:
    asked = threading.Event()
    answers = iter([RuntimeError("no connection"), [70]])

    def connected() -> list[int]:
        answer = next(answers, None)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            asked.set()
        return answer or [70]

    with watching(book, connected, 0.01):
        assert asked.wait(10)
    assert book.now.sites["ash"].connected


def test_a_reporter_logs_what_is_new_once_and_forgets_an_earlier_start(
    tmp_path: Path, book: AttendanceBook, caplog: pytest.LogCaptureFixture
) -> None:
    book.see(NODES)
    stages: list[str] = []
    reporter = Reporter(tmp_path, stages.append)
    reporter.look()
    assert not stages
    with caplog.at_level(logging.INFO):
        book.begin(Stage.CONNECTING)
        book.see([])
        reporter.look()
        reporter.look()
    assert caplog.messages.count("waiting for sites to connect: ash, birch, cedar") == 1
    assert stages == ["waiting for sites to connect: ash, birch, cedar"]


def test_what_is_written_never_tells_whose_vector_is_there(
    tmp_path: Path, book: AttendanceBook
) -> None:
    """Between two sums nothing changes, whoever is first: uploads are not noted at all."""
    machine = SessionMachine(DESCRIPTOR, 3)
    for event in (SiteEvent.ANNOUNCE, SiteEvent.ENCAPSULATE, SiteEvent.READY):
        for site in SITES:
            machine.take(site, event)
    machine.complete_keys()
    machine.go(0, 0)
    book.see(NODES)
    book.join(SITES, lambda: machine.departures)
    book.sum(1, 1, 4)
    before = (tmp_path / "attendance.json").read_bytes()
    for site in ("birch", "ash"):
        machine.take(site, SiteEvent.UPLOAD)
        book.see(NODES)
        machine.take(site, SiteEvent.LAST_CHUNK)
        book.see(NODES)
        assert (tmp_path / "attendance.json").read_bytes() == before
