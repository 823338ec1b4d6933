"""Malicious sites, and strangers, against the real server: it goes on, and the honest sum is right."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import grpc
import numpy as np
import pytest
from attacks.rogue import Rogue, bare_stub, refusal_of
from attacks.world import SESSION, SITES, World, issued, run_all, served
from numpy.typing import NDArray

from hortus.privacy.secure_sum.masks import StepView
from hortus.privacy.step import PrivateStep
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.vectors import fill, split
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.server.sums.aggregator import Aggregator, StepSum

HONEST = SITES[:3]
ROGUE = SITES[3]
Adapter = NDArray[np.float32]


def one_step(
    world: World, adapter: Adapter, misbehave: Callable[[int], None], steps: int = 1
) -> tuple[list[StepSum], Aggregator]:
    """Makes sums with three honest sites while a fourth misbehaves, each from its own thread."""
    sums: list[StepSum] = []
    with served(world) as (session, port):

        def serve() -> None:
            session.exchange_keys()
            sums.extend(session.sum(step, adapter) for step in range(steps))
            session.close("done")

        work: dict[str, Callable[[], object]] = {
            "server": serve,
            "honest": lambda: world.play(port, dict.fromkeys(HONEST, world.request())),
            "rogue": lambda: misbehave(port),
        }
        run_all(work, 90)
    return sums, session


def assert_honest_sum(world: World, adapter: Adapter, result: StepSum) -> None:
    """The sum is that of the honest sites, to the last bit, whichever attempt it took."""
    assert result.sites == HONEST
    expected = world.true_sum(HONEST, 0, result.attempts - 1, adapter)
    assert np.array_equal(result.total, expected)


def view_of(go: wire.Go) -> StepView:
    return StepView(go.step, go.attempt, tuple(go.survivors), bytes.fromhex(go.adapter_digest))


Misdeed = Callable[[Rogue, StepView], Any]


def _too_short(rogue: Rogue, view: StepView) -> Any:
    rogue.upload(rogue.masked_zeros(view)[:-1], view)


def _too_long(rogue: Rogue, view: StepView) -> Any:
    rogue.upload(np.append(rogue.masked_zeros(view), np.uint32(1)), view)


def _nothing(rogue: Rogue, view: StepView) -> Any:
    rogue.send(rogue.parts([]))


def _damaged(rogue: Rogue, view: StepView) -> Any:
    (chunk,) = split(rogue.masked_zeros(view))
    chunk.checksum ^= 1
    rogue.send(rogue.parts([chunk]))


def _wrong_step(rogue: Rogue, view: StepView) -> Any:
    rogue.upload(rogue.masked_zeros(view), StepView(3, 0, view.survivors, view.adapter_digest))


def _wrong_attempt(rogue: Rogue, view: StepView) -> Any:
    rogue.upload(rogue.masked_zeros(view), StepView(0, 7, view.survivors, view.adapter_digest))


def _wrong_session(rogue: Rogue, view: StepView) -> Any:
    rogue.upload(rogue.masked_zeros(view), view, session="9" * 32)


def _without_header(rogue: Rogue, view: StepView) -> Any:
    rogue.send(wire.UploadPart(chunk=chunk) for chunk in split(rogue.masked_zeros(view)))


def _huge_numbers(rogue: Rogue, view: StepView) -> Any:
    rogue.send(
        rogue.parts([fill(wire.Chunk(), 2**31, b"\xff" * 4)], step=2**32 - 1, attempt=2**32 - 1)
    )


def _endless_headers(rogue: Rogue, view: StepView) -> Any:
    header = next(rogue.parts([]))
    rogue.send(header for _ in range(10_000))


def _oversize_message(rogue: Rogue, view: StepView) -> Any:
    rogue.send(rogue.parts([wire.Chunk(words=bytes(16 * 2**20))]))


@pytest.mark.parametrize(
    ("misdeed", "refusal"),
    [
        (_too_short, "FAILED_PRECONDITION"),
        (_too_long, "FAILED_PRECONDITION"),
        (_nothing, "FAILED_PRECONDITION"),
        (_damaged, "its checksum differs"),
        (_wrong_step, "step 3 attempt 0 is not open"),
        (_wrong_attempt, "step 0 attempt 7 is not open"),
        (_wrong_session, "no such session"),
        (_without_header, "FAILED_PRECONDITION"),
        (_huge_numbers, "FAILED_PRECONDITION"),
        (_endless_headers, "FAILED_PRECONDITION"),
        (_oversize_message, "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_wrong_upload_is_refused_and_hurts_nobody_else(
    world: World, adapter: Adapter, misdeed: Misdeed, refusal: str
) -> None:
    seen = []

    def misbehave(port: int) -> None:
        rogue = Rogue(world)
        with rogue.joined(port):
            view = view_of(rogue.ready().go)
            try:
                misdeed(rogue, view)
            except grpc.RpcError as error:
                seen.append(refusal_of(error))
            rogue.ready(refusal="it gives up")

    (result,), session = one_step(world, adapter, misbehave)
    assert len(seen) == 1
    assert refusal in seen[0]
    assert_honest_sum(world, adapter, result)
    assert set(session.departures) == {ROGUE}


def _again(rogue: Rogue, masked: NDArray[np.uint32], view: StepView) -> None:
    rogue.upload(masked, view)
    rogue.upload(masked, view)


def _without_end(rogue: Rogue, masked: NDArray[np.uint32], view: StepView) -> None:
    rogue.send(rogue.parts(fill(wire.Chunk(), n, masked.tobytes()) for n in count()))


@pytest.mark.parametrize("send", [_again, _without_end])
def test_what_comes_after_a_vector_is_refused_and_the_vector_counts_once(
    world: World,
    adapter: Adapter,
    send: Callable[[Rogue, NDArray[np.uint32], StepView], None],
) -> None:
    seen = []

    def misbehave(port: int) -> None:
        rogue = Rogue(world)
        with rogue.joined(port):
            view = view_of(rogue.ready().go)
            try:
                send(rogue, rogue.masked_zeros(view), view)
            except grpc.RpcError as error:
                seen.append(refusal_of(error))

    (result,), _ = one_step(world, adapter, misbehave)
    assert "FAILED_PRECONDITION" in seen[0]
    assert result.sites == SITES
    assert np.array_equal(result.total, world.true_sum(HONEST, 0, 0, adapter))


def test_huge_values_are_a_poisoned_sum_but_a_finite_step(world: World, adapter: Adapter) -> None:
    """Nobody can look under a mask: docs/threat-model.md, Poisoning. The server's numbers hold."""
    huge = np.full(world.workbench.space.dimension, 2**31 - 1, np.uint32)

    def misbehave(port: int) -> None:
        rogue = Rogue(world)
        with rogue.joined(port):
            view = view_of(rogue.ready().go)
            rogue.upload(rogue.masked_zeros(view) + huge, view)

    (result,), _ = one_step(world, adapter, misbehave)
    assert np.array_equal(result.total - huge, world.true_sum(HONEST, 0, 0, adapter))
    encoding = PrivateStep.of(world.contract, len(huge), len(SITES))
    gradient, _ = encoding.mean_release(result.total, len(SITES), np.float32(1.0))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() <= 2**31 / encoding.codec.scale


class Flood:
    """A hundred calls, on ten connections of one site, held open until it is told to let go."""

    def __init__(self, world: World) -> None:
        self.statuses: list[str] = []
        self._world = world
        self._let_go = threading.Event()

    @contextmanager
    def rising(self, port: int) -> Iterator[None]:
        tls = self._world.consortium.site(ROGUE).tls
        with ExitStack() as stack:
            stubs = [stack.enter_context(bare_stub(port, tls)) for _ in range(10)]
            calls = [
                (stub, kind) for stub in stubs for kind in ("Upload", "Ready") for _ in range(5)
            ]
            threads = [threading.Thread(target=self._hold, args=call) for call in calls]
            for thread in threads:
                thread.start()
            yield
            self._let_go.set()
            for thread in threads:
                thread.join(60)

    def _hold(self, stub: Any, kind: str) -> None:
        try:
            if kind == "Upload":
                stub.Upload(self._nothing_yet(), timeout=60)
            else:
                stub.Ready(wire.ReadyRequest(session=SESSION), timeout=60)
        except grpc.RpcError as error:
            self.statuses.append(refusal_of(error))

    def _nothing_yet(self) -> Iterator[wire.UploadPart]:
        self._let_go.wait(60)
        yield wire.UploadPart()


def test_a_flood_of_calls_does_not_keep_the_others_out(world: World, adapter: Adapter) -> None:
    flood = Flood(world)

    def misbehave(port: int) -> None:
        rogue = Rogue(world)
        with rogue.joined(port):
            with flood.rising(port):
                time.sleep(2)
            rogue.ready(refusal="it lets go")

    sums, session = one_step(world, adapter, misbehave, steps=2)
    assert sum("RESOURCE_EXHAUSTED" in status for status in flood.statuses) >= 90
    assert sums[1].sites == HONEST
    expected = world.true_sum(HONEST, 1, sums[1].attempts - 1, adapter)
    assert np.array_equal(sums[1].total, expected)
    assert set(session.departures) == {ROGUE}


def test_a_dripping_upload_is_cut_off_at_the_deadline(
    make_world: Callable[..., World], adapter: Adapter
) -> None:
    world = make_world(cohort={"step_deadline": 3.0})
    seconds = []

    def misbehave(port: int) -> None:
        rogue = Rogue(world)
        with rogue.joined(port):
            rogue.ready()
            started = time.monotonic()

            def dripping() -> Iterator[wire.UploadPart]:
                yield from rogue.parts([])
                time.sleep(20)

            with pytest.raises(grpc.RpcError):
                rogue.send(dripping())
            seconds.append(time.monotonic() - started)

    (result,), session = one_step(world, adapter, misbehave)
    assert seconds[0] < 15
    assert_honest_sum(world, adapter, result)
    assert "sent no vector for step 0 in time" in session.departures[ROGUE]


def _announce_as_ash(message: Any) -> Any:
    if isinstance(message, wire.Announcement):
        message.site = "ash"
    return message


def _encapsulate_as_ash(message: Any) -> Any:
    if isinstance(message, wire.Encapsulations):
        for one in message.encapsulations:
            one.sender = "ash"
    return message


def _unsigned_keys(message: Any) -> Any:
    if isinstance(message, wire.Announcement):
        message.signature = bytes(64)
    return message


def _malformed_keys(message: Any) -> Any:
    if isinstance(message, wire.Announcement):
        message.mlkem = message.mlkem[:100]
    return message


def _unsigned_ciphertexts(message: Any) -> Any:
    if isinstance(message, wire.Encapsulations):
        message.encapsulations[0].signature = bytes(64)
    return message


def _ciphertexts_for_some(message: Any) -> Any:
    if isinstance(message, wire.Encapsulations):
        del message.encapsulations[0]
    return message


def _older_protocol(message: Any) -> Any:
    if isinstance(message, wire.Announcement):
        message.protocol = PROTOCOL_VERSION + 1
    return message


@pytest.mark.parametrize(
    "tamper",
    [
        _announce_as_ash,
        _encapsulate_as_ash,
        _unsigned_keys,
        _malformed_keys,
        _unsigned_ciphertexts,
        _ciphertexts_for_some,
        _older_protocol,
    ],
)
def test_who_spoils_the_keys_is_the_one_left_out(
    world: World, tamper: Callable[[Any], Any]
) -> None:
    """The others would refuse such keys: were they called the ones who left, so would be they."""
    refused = []
    with served(world) as (session, port):

        def misbehave() -> None:
            rogue = Rogue(world)
            try:
                with rogue.joined(port, tamper):
                    pass
            except grpc.RpcError as error:
                refused.append(refusal_of(error))

        def serve() -> None:
            with pytest.raises(Exception, match="no keys for the cohort"):
                session.exchange_keys()
            session.close("it is given up")

        run_all(
            {
                "server": serve,
                "honest": lambda: world.play(port, dict.fromkeys(HONEST, world.request())),
                "rogue": misbehave,
            },
            60,
        )
    assert set(session.departures) == {ROGUE}
    assert "FAILED_PRECONDITION" in refused[0]
    assert not any(world.charges(site) for site in SITES)


def test_strangers_are_refused_before_anything_they_say_is_read(world: World) -> None:
    """No certificate; a certificate of a site that was removed from the consortium."""
    authority = world.consortium.server.authority
    former = issued(authority, "elm", world.consortium.directory / "former", world.started)
    announcement = wire.Announcement(protocol=PROTOCOL_VERSION, session=SESSION, site="ash")
    with served(world) as (session, port):
        with (
            bare_stub(port, former, shows_certificate=False) as stub,
            pytest.raises(grpc.RpcError) as error,
        ):
            stub.Announce(announcement, timeout=5)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        with bare_stub(port, former) as stub, pytest.raises(grpc.RpcError) as error:
            stub.Announce(announcement, timeout=5)
        assert "no such session for this site" in error.value.details()
        with bare_stub(port, former) as stub, pytest.raises(grpc.RpcError) as error:
            stub.Upload(iter([]), timeout=5)
        assert "no such session for this site" in error.value.details()
        assert not session.departures


def test_a_site_that_its_operator_stops_takes_its_leave_and_the_others_go_on(
    world: World, adapter: Adapter
) -> None:
    """The real agent against the real service: stopped while it waits for the second step."""
    reply: list[wire.TakePartReply] = []
    with served(world) as (session, port):
        agent = world.agent(world.site(ROGUE), port)

        def serve() -> None:
            session.exchange_keys()
            session.sum(0, adapter)
            agent.stop(seconds=20)
            assert session.departures == {ROGUE: "its operator is stopping it; it can join again"}
            assert session.sum(1, adapter).sites == HONEST
            session.close("done")

        run_all(
            {
                "server": serve,
                "honest": lambda: world.play(port, dict.fromkeys(HONEST, world.request())),
                "leaving": lambda: reply.append(agent.take_part(world.request())),
            },
            90,
        )
    assert (reply[0].steps, reply[0].reason) == (
        1,
        "its operator is stopping it; it can join again",
    )
    assert agent.take_part(world.request()).reason == "its operator is stopping it"
    with world.site(ROGUE) as reopened:
        assert len(list(reopened.ledger.entries())) == 2  # the approval and a charge
