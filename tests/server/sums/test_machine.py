"""The session's state machine against a small model of the protocol: whatever comes, in any order."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from hortus.protocol.descriptor import Descriptor
from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.vectors import split
from hortus.runtime.errors import CohortTooSmall, ProtocolError
from hortus.server.sums.attempt import Attempt
from hortus.server.sums.machine import SessionMachine
from hortus.server.sums.states import (
    PHASE_TRANSITIONS,
    SITE_TRANSITIONS,
    Phase,
    SiteEvent,
    SiteState,
)

SITES = ("a", "b", "c", "d")
MINIMUM = 2
CHUNKS = 2
DIMENSION = CHUNK_WORDS + 3
DESCRIPTOR = Descriptor(
    run="1" * 32,
    session="5" * 32,
    contract="2" * 64,
    cohort=SITES,
    first_round=0,
    dimension=DIMENSION,
    scale=1,
)
A_SITE = st.sampled_from(SITES)
RARELY = st.integers(0, 4).map(lambda number: number == 4)


def vector(site: str, step: int, attempt: int) -> NDArray[np.uint32]:
    """Different for each site, step and attempt, and quick to make."""
    start = (SITES.index(site) + 1) * 1_000_003 + step * 10_007 + attempt * 101
    return np.arange(start, start + DIMENSION, dtype=np.uint32)


class AgainstModel(RuleBasedStateMachine):
    """The model: sets of sites, and what each has brought of the vector that it owes."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = SessionMachine(DESCRIPTOR, MINIMUM)
        self.announced: set[str] = set()
        self.sealed: set[str] = set()
        self.ready: set[str] = set()
        self.left: set[str] = set()
        self.phase = "joining"
        self.step = self.number = 0
        self.attempt: Attempt | None = None
        self.brought: dict[str, int] = {}  # chunks, by sites of the open attempt
        self.streams: dict[str, int] = {}
        self.past: list[tuple[Attempt, dict[str, int]]] = []

    @property
    def owing(self) -> set[str]:
        return {s for s, chunks in self.brought.items() if chunks < CHUNKS} - self.left

    def expect(self, legal: bool, site: str, event: SiteEvent) -> None:
        if legal and self.phase != "closed":
            self.machine.take(site, event)
        else:
            with pytest.raises(ProtocolError):
                self.machine.take(site, event)

    @rule(site=A_SITE)
    def announce(self, site: str) -> None:
        legal = site not in self.announced | self.left
        self.expect(legal, site, SiteEvent.ANNOUNCE)
        if legal and self.phase != "closed":
            self.announced.add(site)

    @rule(site=A_SITE)
    def encapsulate(self, site: str) -> None:
        legal = site in self.announced - self.sealed - self.left
        self.expect(legal, site, SiteEvent.ENCAPSULATE)
        if legal and self.phase != "closed":
            self.sealed.add(site)

    @rule(site=A_SITE)
    def be_ready(self, site: str) -> None:
        """Also twice, and also with a vector outstanding."""
        legal = site in self.sealed - self.left
        self.expect(legal, site, SiteEvent.READY)
        if legal and self.phase != "closed":
            (self.left if site in self.owing else self.ready).add(site)

    @rule()
    def all_join(self) -> None:
        for site in SITES:
            if site not in self.sealed:
                self.announce(site)
                self.encapsulate(site)
            if site not in self.owing:
                self.be_ready(site)

    @rule(site=A_SITE, whim=RARELY)
    def drop_out_now_and_then(self, site: str, whim: bool) -> None:
        if whim:
            self.drop_out(site)

    def drop_out(self, site: str) -> None:
        self.machine.leave(site, "gone")
        if self.phase != "closed":
            self.left.add(site)
            self.ready.discard(site)

    @initialize(all_come=st.integers(0, 9))
    def begin(self, all_come: int) -> None:
        """Nine sessions of ten get beyond the keys."""
        if all_come:
            self.all_join()
            self.end_joining()

    @precondition(lambda self: self.phase == "joining")
    @rule()
    def end_joining(self) -> None:
        """At the deadline: who is not ready is left behind."""
        for site in set(SITES) - self.ready - self.left:
            self.drop_out(site)
        if self.sealed == set(SITES):
            self.machine.complete_keys()
            self.phase = "gathering"
        else:
            with pytest.raises(CohortTooSmall, match="no keys"):
                self.machine.complete_keys()
            self.close()

    @precondition(lambda self: self.phase == "gathering")
    @rule(impatient=RARELY)
    def try_once_more(self, impatient: bool) -> None:
        if not impatient:
            self.all_join()
        self.go()

    def go(self) -> None:
        for site in set(SITES) - self.ready - self.left:
            self.drop_out(site)
        if len(self.ready) < MINIMUM:
            with pytest.raises(CohortTooSmall):
                self.machine.go(self.step, self.number)
            return
        self.attempt = self.machine.go(self.step, self.number)
        assert self.attempt.sites == tuple(sorted(self.ready))
        self.brought = dict.fromkeys(self.ready, 0)
        self.streams = {}
        self.ready = set()
        self.phase = "summing"

    @rule(site=A_SITE, off=st.sampled_from([(0, 0)] * 5 + [(1, 0), (-1, 0), (0, 1), (0, -1)]))
    def connect(self, site: str, off: tuple[int, int]) -> None:
        """A first upload, a resumed one, a late one, or one for a step that never was."""
        step, number = self.step + off[0], self.number + off[1]
        right = off == (0, 0) and self.phase == "summing"
        if not right or site not in self.brought or site in self.left:
            with pytest.raises(ProtocolError):
                self.machine.attempt_for(site, step, number)
            return
        attempt = self.machine.attempt_for(site, step, number)
        if site in self.owing:
            self.machine.take(site, SiteEvent.UPLOAD)
        else:
            with pytest.raises(ProtocolError):
                self.machine.take(site, SiteEvent.UPLOAD)
        self.streams[site], due = attempt.open_stream(site)
        assert due == self.brought[site]

    @precondition(lambda self: self.phase == "summing" and self.owing)
    @rule(data=st.data(), chunks=st.integers(1, CHUNKS), repeats=st.booleans(), anew=st.booleans())
    def bring(self, data: st.DataObject, chunks: int, repeats: bool, anew: bool) -> None:
        site = data.draw(st.sampled_from(sorted(self.owing)))
        if anew or site not in self.streams:
            self.connect(site, (0, 0))
        assert self.attempt is not None
        mine = vector(site, self.step, self.number)
        for chunk in itertools.islice(split(mine, self.brought[site]), chunks):
            with pytest.raises(ProtocolError):  # a connection from before
                self.attempt.add(site, self.streams[site] - 1, chunk)
            whole = self.attempt.add(site, self.streams[site], chunk)
            self.brought[site] += 1
            assert whole == (self.brought[site] == CHUNKS)
            if whole and site not in self.left:
                self.machine.take(site, SiteEvent.LAST_CHUNK)
            if repeats:
                with pytest.raises(ProtocolError):
                    self.attempt.add(site, self.streams[site], chunk)

    @precondition(lambda self: self.phase == "summing")
    @rule(but=st.sampled_from([None, None, *SITES]))
    def all_deliver(self, but: str | None) -> None:
        for site in sorted(self.owing - {but}):
            self.connect(site, (0, 0))
            assert self.attempt is not None
            for chunk in split(vector(site, self.step, self.number), self.brought[site]):
                self.attempt.add(site, self.streams[site], chunk)
            self.brought[site] = CHUNKS
            self.machine.take(site, SiteEvent.LAST_CHUNK)

    @precondition(lambda self: self.phase == "summing")
    @rule()
    def settle(self) -> None:
        """All have delivered or left, or the deadline has passed."""
        assert self.attempt is not None
        assert self.machine.is_settled == (not self.owing)
        result, complete = self.machine.settle()
        assert result is self.attempt
        assert result.heard == {site for site, chunks in self.brought.items() if chunks}
        assert complete == all(chunks == CHUNKS for chunks in self.brought.values())
        if complete:
            vectors = [vector(s, self.step, self.number) for s in self.brought]
            assert np.array_equal(result.total(), np.sum(vectors, axis=0, dtype=np.uint32))
            self.step, self.number = self.step + 1, 0
        else:
            self.number += 1
        self.left |= self.owing
        self.past.append((self.attempt, self.streams))
        self.attempt, self.brought, self.streams = None, {}, {}
        self.phase = "gathering"

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def bring_late(self, data: st.DataObject) -> None:
        """A connection that an attempt has left behind: nothing it brings is added to anything."""
        attempt, streams = data.draw(st.sampled_from(self.past))
        for site in attempt.sites:
            before = attempt._total.copy()
            for chunk in split(vector(site, attempt.step, attempt.number)):
                with pytest.raises(ProtocolError):
                    attempt.add(site, streams.get(site, 0), chunk)
            assert np.array_equal(attempt._total, before)

    @rule(whim=RARELY, again=RARELY)
    def close_now_and_then(self, whim: bool, again: bool) -> None:
        if whim and again:
            self.close()

    def close(self) -> None:
        if self.attempt is not None:
            self.past.append((self.attempt, self.streams))
        self.machine.close()
        self.attempt, self.brought, self.streams = None, {}, {}
        self.phase = "closed"

    @invariant()
    def agrees_with_the_model(self) -> None:
        machine = self.machine
        assert machine.phase.value == self.phase
        assert set(machine.departures) == self.left
        assert machine.live == set(SITES) - self.left
        assert (machine.attempt is None) == (self.phase != "summing")
        if self.phase != "closed":
            assert machine.in_state(SiteState.READY) == self.ready - self.left
            owing = machine.in_state(SiteState.CALLED) | machine.in_state(SiteState.UPLOADING)
            assert owing == self.owing

    @invariant()
    def every_failed_attempt_has_cost_a_site(self) -> None:
        assert self.number <= len(self.left) <= len(SITES)


AgainstModel.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestAgainstModel = AgainstModel.TestCase


def documented(heading: str) -> set[tuple[str, ...]]:
    """The rows of a table of docs/protocol.md, by the heading above it."""
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
    section = text.split(f"### {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {
        tuple(cell.strip().strip("`") for cell in row.strip("|").split("|")[:3]) for row in rows
    }


def test_the_documentation_has_every_transition_of_a_site() -> None:
    leaving = {(s.value, "leave", "left") for s in SiteState}
    coded = {(s.value, e.value, after.value) for (s, e), after in SITE_TRANSITIONS.items()}
    assert leaving <= coded
    assert documented("A site, as the server sees it") == coded - leaving | {
        ("any", "leave", "left")
    }


def test_the_documentation_has_every_transition_of_a_session() -> None:
    closing = {(p.value, "close", "closed") for p in Phase}
    coded = {(p.value, e.value, after.value) for (p, e), after in PHASE_TRANSITIONS.items()}
    assert closing <= coded
    assert documented("A session at the server") == coded - closing | {("any", "close", "closed")}
