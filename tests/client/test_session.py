"""A site against a server that lies: nothing is charged, masked or sent that should not be."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.fixed_terms import FixedTerms
from scipy.stats import chisquare

from hortus.client.consent.terms import ChargeAccount
from hortus.client.disclosure import FAILED
from hortus.client.pace import Pace, RehearsalClock, Timetable
from hortus.client.session import Session
from hortus.privacy.gradients.clipping.adaptive import AdaptiveClipping
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.decisions import Declined
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget
from hortus.protocol.vectors import split, vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import HortusError, ProtocolError, Refused
from hortus.runtime.names import SERVER

SITES = ("ash", "birch", "cedar")
DIMENSION = 4000
ADAPTER = np.zeros(DIMENSION, np.float32)
DIGEST = vector_digest(ADAPTER)
UNTIMED = Timetable(Pace(1), RehearsalClock())


class Zeros:
    """A trainer whose vectors are all zero: whatever is uploaded is mask alone."""

    def vector(self, adapter: Any, step: int, attempt: int, told: bytes = b"") -> Any:
        return np.zeros(DIMENSION, np.int64)


class World:
    """Three sites' identities, and one session's descriptor."""

    def __init__(self, contract: Contract, directory: Path) -> None:
        self.contract = contract
        self.directory = directory
        self.identities = {site: Identity.generate(site) for site in SITES}
        self.server = Identity.generate(SERVER)
        keys = {site: identity.public_key_bytes for site, identity in self.identities.items()}
        self.roster = Roster(keys, self.server.public_key_bytes)
        adapts = contract.privacy.clipping.kind == "adaptive"
        self.encoding = PrivateStep.of(contract, DIMENSION - adapts, len(SITES))
        self.descriptor = Descriptor(
            run="1" * 32,
            session="2" * 32,
            contract=contract.digest(),
            cohort=SITES,
            first_round=0,
            dimension=DIMENSION,
            scale=self.encoding.codec.scale,
        )

    def ledger(self, site: str, clock: Callable[[], float] = lambda: 1.0) -> Ledger:
        path = self.directory / f"{site}.sqlite"
        return Ledger.open(path, self.identities[site], clock)

    def session(
        self,
        site: str,
        channel: Any,
        trainer: Any = None,
        timetable: Timetable = UNTIMED,
        clock: Callable[[], float] = lambda: 1.0,
    ) -> Session:
        ledger = self.ledger(site, clock)
        account = ChargeAccount(ledger, "d" * 64, Budget(epsilon=1000, delta=1e-5))
        return Session(
            identity=self.identities[site],
            roster=self.roster,
            descriptor=self.descriptor,
            encoding=self.encoding,
            trainer=trainer or Zeros(),
            terms=FixedTerms(account),
            ledger=ledger,
            channel=channel,
            stopwatch=untimed,
            timetable=timetable,
            public=lambda _: FAILED,
        )


@contextmanager
def untimed(_: str) -> Iterator[None]:
    yield


class Server:
    """Relays keys honestly unless told otherwise, and gives each site the turns of a script."""

    def __init__(self, script: Callable[[str], list[wire.Go]]) -> None:
        self.script = {site: script(site) for site in SITES}
        self.announced: dict[str, wire.Announcement] = {}
        self.sealed: dict[str, wire.Encapsulations] = {}
        self.received: dict[str, list[np.ndarray]] = {site: [] for site in SITES}
        self.refusals: dict[str, list[str]] = {site: [] for site in SITES}
        self.adapter = ADAPTER

    def tamper(self, site: str, announcements: wire.Announcements) -> wire.Announcements:
        return announcements


class Channel:
    """One site's view of the server; waits for the others as the real one does."""

    def __init__(self, server: Server, site: str) -> None:
        self.server = server
        self.site = site

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        self.server.announced[self.site] = request
        while len(self.server.announced) < len(SITES):
            pass
        ordered = [self.server.announced[site] for site in SITES]
        return self.server.tamper(self.site, wire.Announcements(protocol=1, announcements=ordered))

    def encapsulate(self, request: wire.Encapsulations) -> wire.Encapsulations:
        self.server.sealed[self.site] = request
        while len(self.server.sealed) < len(SITES):
            pass
        sent = [one for s in SITES for one in self.server.sealed[s].encapsulations]
        return wire.Encapsulations(encapsulations=[e for e in sent if e.receiver == self.site])

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        if request.refusal:
            self.server.refusals[self.site].append(request.refusal)
        script = self.server.script[self.site]
        if request.refusal or not script:
            return wire.Turn(finished=wire.Finished(reason="done"))
        return wire.Turn(go=script.pop(0))

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        return split(self.server.adapter, request.first_sequence)

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        words = b"".join(part.chunk.words for part in parts)
        self.server.received[self.site].append(np.frombuffer(words, "<u4"))
        return wire.Receipt()


@pytest.fixture
def world(plan: Plan, tmp_path: Path) -> World:
    contract = plan.contract(model_digest="a" * 64, noise_multiplier=5.0)
    return World(contract, tmp_path)


def go(
    step: int = 0, attempt: int = 0, survivors: tuple[str, ...] = SITES, digest: str = DIGEST
) -> wire.Go:
    return wire.Go(step=step, attempt=attempt, survivors=survivors, adapter_digest=digest)


def play(world: World, server: Server) -> dict[str, Any]:
    """Runs all three sites; returns what each returned or raised."""

    def run(site: str) -> Any:
        try:
            return world.session(site, Channel(server, site)).run()
        except HortusError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(SITES, pool.map(run, SITES), strict=True))


def charged(world: World, site: str) -> int:
    return sum(isinstance(entry.body, Charged) for entry in world.ledger(site).entries())


def total(server: Server, number: int = 0) -> np.ndarray:
    return sum(server.received[site][number] for site in SITES)  # type: ignore[return-value]


def test_honest_masks_cancel_and_every_upload_was_charged(world: World) -> None:
    server = Server(lambda _: [go(0), go(1)])
    outcomes = play(world, server)
    assert {outcome[0] for outcome in outcomes.values()} == {2}
    assert not total(server).any()
    assert not total(server, 1).any()
    assert [charged(world, site) for site in SITES] == [2, 2, 2]


def test_what_the_server_holds_of_one_site_is_uniform(world: World) -> None:
    """χ² on bytes, false-failure rate 1e-9 for each of the six vectors."""
    server = Server(lambda _: [go(0), go(1)])
    play(world, server)
    for vectors in server.received.values():
        for vector in vectors:
            counts = np.bincount(vector.view(np.uint8), minlength=256)
            assert chisquare(counts).pvalue > 1e-9


@pytest.mark.parametrize(
    "lie",
    [
        lambda site: go(survivors=SITES if site != "ash" else ("ash", "birch")),
        lambda site: go(attempt=1 if site == "ash" else 0),
        lambda site: go(step=1 if site == "ash" else 0),
    ],
    ids=["cohort", "attempt", "step"],
)
def test_split_views_give_the_server_noise(world: World, lie: Callable[[str], wire.Go]) -> None:
    server = Server(lambda site: [lie(site)])
    play(world, server)
    counts = np.bincount(total(server).astype(np.uint32).view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-9
    assert np.count_nonzero(total(server)) > 0.99 * DIMENSION


@pytest.mark.parametrize(
    "turns",
    [
        [go(survivors=("ash",))],
        [go(survivors=("birch", "cedar"))],
        [go(survivors=("ash", "birch", "oak"))],
        [go(survivors=("birch", "ash", "cedar"))],
        [go(step=99)],
        [go(digest="0" * 64)],
        [go(digest="xyz")],
    ],
    ids=["too few", "without itself", "a stranger", "unsorted", "no such step", "adapter", "hex"],
)
def test_a_malformed_go_is_refused_before_anything_is_charged_or_sent(
    world: World, turns: list[wire.Go]
) -> None:
    server = Server(lambda site: list(turns) if site == "ash" else [])
    outcomes = play(world, server)
    assert isinstance(outcomes["ash"], HortusError)
    assert charged(world, "ash") == 0
    assert not server.received["ash"]
    assert server.refusals["ash"], "the others are told"


def test_a_clipping_norm_outside_of_the_contract_is_refused_before_anything_is_charged(
    plan: Plan, tmp_path: Path
) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"clipping": AdaptiveClipping(largest=2.0).section}
    contract = Plan(**fields).contract(model_digest="a" * 64, noise_multiplier=5.0)
    world = World(contract, tmp_path)
    for norm, taken in ((2.5, False), (1.5, True)):
        start = np.append(ADAPTER[1:], np.float32(norm))
        server = Server(lambda _, start=start: [go(digest=vector_digest(start))])
        server.adapter = start
        outcomes = play(world, server)
        if not taken:
            assert "clipping norm received is 2.5" in str(outcomes["ash"])
            assert charged(world, "ash") == 0
    (entry,) = world.ledger("ash").entries()
    assert isinstance(entry.body, Charged)
    assert entry.body.charge.clipping_norm == 1.5


def test_a_replayed_go_is_refused(world: World) -> None:
    server = Server(lambda site: [go(0), go(0)] if site == "ash" else [go(0)])
    outcomes = play(world, server)
    assert isinstance(outcomes["ash"], ProtocolError)
    assert charged(world, "ash") == 1
    assert len(server.received["ash"]) == 1


def test_a_replay_after_a_restart_is_refused_by_the_ledger(world: World) -> None:
    play(world, Server(lambda _: [go(0)]))
    server = Server(lambda _: [go(0)])
    outcomes = play(world, server)
    assert all(charged(world, site) == 1 for site in SITES)
    assert not any(server.received.values())
    assert "used" in str(outcomes["ash"])
    last = list(world.ledger("ash").entries())[-1].body
    assert isinstance(last, Declined)
    assert (last.plan, last.run, last.round) == (world.contract.digest(), "1" * 32, 0)
    assert last.reason in server.refusals["ash"]


def test_a_new_attempt_is_charged_anew_for_distributed_noise(world: World) -> None:
    play(world, Server(lambda _: [go(0, 0), go(0, 1, ("ash", "birch", "cedar"))]))
    assert charged(world, "ash") == 2


def test_a_vector_with_its_own_noise_is_sent_again_without_a_charge(
    plan: Plan, tmp_path: Path
) -> None:
    fields = plan.model_dump()
    fields["privacy"] |= {"noise": "local"}
    contract = Plan(**fields).contract(model_digest="a" * 64, noise_multiplier=5.0)
    world = World(contract, tmp_path)
    server = Server(lambda _: [go(0, 0), go(0, 1)])
    play(world, server)
    assert charged(world, "ash") == 1
    first, second = server.received["ash"]
    assert np.count_nonzero(first != second) > 0.99 * DIMENSION, "under fresh masks"


def test_an_adapter_that_is_not_finite_is_refused(world: World) -> None:
    poisoned = np.full(DIMENSION, np.nan, np.float32)
    server = Server(lambda site: [go(digest=vector_digest(poisoned))] if site == "ash" else [])
    server.adapter = poisoned
    assert isinstance(play(world, server)["ash"], ProtocolError)
    assert charged(world, "ash") == 0


@pytest.mark.parametrize("version", [0, 2])
def test_a_server_of_another_version_is_refused_before_anything_is_charged(
    world: World, version: int
) -> None:
    class Other(Server):
        def tamper(self, site: str, announcements: wire.Announcements) -> wire.Announcements:
            announcements.protocol = version
            return announcements

    outcomes = play(world, Other(lambda _: [go(0)]))
    assert all(f"uses protocol {version}" in str(error) for error in outcomes.values())
    assert charged(world, "ash") == 0


def test_a_turn_beyond_its_limits_is_refused(world: World) -> None:
    server = Server(lambda _: [go(survivors=("ash", "b" * 64, "cedar"))])
    outcomes = play(world, server)
    assert "Go.survivors has 64 bytes" in str(outcomes["ash"])
    assert charged(world, "ash") == 0


def test_a_server_that_puts_its_own_key_in_is_found_out(world: World) -> None:
    class Impostor(Server):
        def tamper(self, site: str, announcements: wire.Announcements) -> wire.Announcements:
            if site == "ash":
                announcements.announcements[1].x25519 = bytes(31) + b"\x09"
            return announcements

    server = Impostor(lambda _: [go(0)])
    # The others wait for ash's ciphertexts for ever, so ash plays alone against recorded keys.
    recorded = Server(lambda _: [])
    play(world, recorded)
    server.announced = dict(recorded.announced)
    with pytest.raises(ProtocolError):
        world.session("ash", Channel(server, "ash")).run()
    assert charged(world, "ash") == 0


class Notarised(Server):
    """Countersigns every head, and shows each site the last one at the start."""

    def __init__(self, world: World, script: Callable[[str], list[wire.Go]]) -> None:
        super().__init__(script)
        self.server, self.heads = world.server, dict[str, LedgerHead]()

    def tamper(self, site: str, announcements: wire.Announcements) -> wire.Announcements:
        if site in self.heads:
            head = self.heads[site]
            known = wire.Head(seq=head.seq, hash=head.hash, signature=head.signature)
            announcements.known_head.CopyFrom(known)
        return announcements

    def countersign(self, site: str, request: wire.ReadyRequest, turn: wire.Turn) -> wire.Turn:
        if request.HasField("head"):
            shown = request.head
            self.heads[site] = LedgerHead(site, shown.seq, shown.hash, shown.signature)
            done = Countersignature.make(self.server, self.heads[site], 1.8e9)
            turn.countersignature.time, turn.countersignature.signature = done.time, done.signature
        return turn


class NotarisedChannel(Channel):
    server: Notarised

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        return self.server.countersign(self.site, request, super().ready(request))


def play_notarised(world: World, server: Notarised) -> dict[str, Any]:
    def run(site: str) -> Any:
        try:
            return world.session(site, NotarisedChannel(server, site)).run()
        except HortusError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(SITES, pool.map(run, SITES), strict=True))


def countersigned(world: World, site: str) -> list[int]:
    with sqlite3.connect(world.directory / f"{site}.sqlite") as raw:
        return [seq for (seq,) in raw.execute("SELECT seq FROM countersignatures ORDER BY seq")]


def test_a_site_that_was_rolled_back_refuses_to_go_on(world: World) -> None:
    server = Notarised(world, lambda _: [go(0), go(1)])
    play_notarised(world, server)
    assert countersigned(world, "ash") == [1, 2]
    # An operator, or a backup tool, puts a copy from before the session in ash's place.
    for name in ("ash.sqlite", "ash.sqlite-wal", "ash.sqlite-shm"):
        (world.directory / name).unlink(missing_ok=True)
    again = Notarised(world, lambda _: [])
    again.heads, again.announced = server.heads, dict(server.announced)
    # The others would wait for ash's ciphertexts for ever, so ash plays alone.
    with pytest.raises(Refused, match="rolled back: it does not contain entry 2"):
        world.session("ash", NotarisedChannel(again, "ash")).run()


def test_a_made_up_head_keeps_nobody_from_going_on(world: World) -> None:
    server = Notarised(world, lambda _: [go(0)])
    server.heads = {
        site: LedgerHead(site, 99, "f" * 64, LedgerHead.sign(world.server, 99, "f" * 64).signature)
        for site in SITES
    }
    outcomes = play_notarised(world, server)
    assert all(outcome == (1, "done") for outcome in outcomes.values())


def test_a_countersignature_by_another_key_is_not_kept(world: World) -> None:
    server = Notarised(world, lambda _: [go(0)])
    server.server = Identity.generate(SERVER)
    play_notarised(world, server)
    assert countersigned(world, "ash") == []


class Patient(Channel):
    """Keeps a site waiting for its turn until the site says that it leaves."""

    def __init__(self, server: Server, site: str, waits: threading.Event) -> None:
        super().__init__(server, site)
        self.waits = waits
        self.left = threading.Event()

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        if request.refusal:
            self.left.set()
            return super().ready(request)
        if self.server.script[self.site]:
            return super().ready(request)
        self.waits.set()
        assert self.left.wait(20)
        return wire.Turn(finished=wire.Finished(reason="left"))


def stopped(world: World, server: Server, when: Callable[[Session], None]) -> tuple[int, str]:
    """Runs all sites while `when` stops the first; returns what the first returned."""
    waits = threading.Event()
    session = world.session(SITES[0], Patient(server, SITES[0], waits))
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(world.session(site, Channel(server, site)).run) for site in SITES[1:]]
        own = pool.submit(session.run)
        assert waits.wait(20)
        when(session)
        result = own.result(20)
        for other in others:
            other.result(20)
    return result


def test_a_site_told_to_stop_while_it_waits_leaves_at_once_and_says_so(world: World) -> None:
    server = Server(lambda _: [go()])
    sent, reason = stopped(world, server, lambda session: session.stop())
    assert (sent, reason) == (1, "its operator is stopping it; it can join again")
    assert server.refusals[SITES[0]][0] == reason
    assert charged(world, SITES[0]) == 1


def test_a_site_told_to_stop_within_a_step_uploads_it_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(lambda _: [go(0), go(1)])
    sessions: list[Session] = []
    vector = Zeros.vector

    def stopping(self: Zeros, adapter: Any, step: int, attempt: int, told: bytes) -> Any:
        if step == 0 and self is sessions[0]._trainer:
            sessions[0].stop()
        return vector(self, adapter, step, attempt, told)

    monkeypatch.setattr(Zeros, "vector", stopping)
    sessions.append(world.session(SITES[0], Channel(server, SITES[0])))
    others = [world.session(site, Channel(server, site)) for site in SITES[1:]]
    with ThreadPoolExecutor(3) as pool:
        results = [each.result(20) for each in [pool.submit(s.run) for s in (*sessions, *others)]]
    assert results[0] == (1, "its operator is stopping it; it can join again")
    assert [len(server.received[site]) for site in SITES] == [1, 2, 2]
    assert charged(world, SITES[0]) == 1
