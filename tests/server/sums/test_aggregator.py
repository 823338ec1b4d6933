"""The meeting point under honest, slow, failing and lying sites, on real threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from helpers.keys import exchange_keys
from numpy.typing import NDArray

from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Cohort
from hortus.protocol.vectors import split
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import CohortTooSmall, ProtocolError
from hortus.server.sums.aggregator import Aggregator

SITES = ("a", "b", "c", "d")
SESSION = "5" * 32
IDENTITIES = {site: Identity.generate(site) for site in SITES}
ROSTER = Roster({site: one.public_key_bytes for site, one in IDENTITIES.items()}, bytes(32))
ADAPTER = np.arange(5, dtype=np.float32)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def make(minimum: int = 3, seconds: float = 0.5) -> Aggregator:
    descriptor = Descriptor(
        run="1" * 32,
        session=SESSION,
        contract="2" * 64,
        cohort=SITES,
        first_round=0,
        dimension=5,
        scale=1024,
    )
    rules = Cohort(minimum=minimum, join_deadline=seconds, step_deadline=seconds)
    return Aggregator(descriptor, rules, ROSTER)


def vector(site: str) -> NDArray[np.uint32]:
    return np.full(5, 10 ** SITES.index(site), np.uint32)


def parts(
    site: str, go: wire.Go, values: NDArray[np.uint32] | None = None
) -> Iterator[wire.UploadPart]:
    yield wire.UploadPart(
        header=wire.UploadHeader(session=SESSION, step=go.step, attempt=go.attempt)
    )
    for chunk in split(vector(site) if values is None else values):
        yield wire.UploadPart(chunk=chunk)


def join_session(session: Aggregator, site: str) -> None:
    announce, encapsulate = partial(session.announce, site), partial(session.encapsulate, site)
    exchange_keys(IDENTITIES[site], ROSTER, session.descriptor, announce, encapsulate)


def ready(session: Aggregator, site: str, refusal: str = "") -> wire.Turn:
    return session.ready(site, wire.ReadyRequest(session=SESSION, refusal=refusal))


def honest(session: Aggregator, site: str) -> list[tuple[int, int]]:
    """Takes part until the end; returns the (step, attempt) pairs that it sent."""
    join_session(session, site)
    sent = []
    while (turn := ready(session, site)).WhichOneof("kind") == "go":
        session.upload(site, parts(site, turn.go))
        sent.append((turn.go.step, turn.go.attempt))
    return sent


def start(
    pool: ThreadPoolExecutor, session: Aggregator, *sites: str
) -> list[Future[list[tuple[int, int]]]]:
    return [pool.submit(honest, session, site) for site in sites]


def test_everybody_is_in_the_sum(pool: ThreadPoolExecutor) -> None:
    session = make()
    players = start(pool, session, *SITES)
    session.exchange_keys()
    for step in range(3):
        result = session.sum(step, ADAPTER)
        assert result.total.tolist() == [1111] * 5
        assert (result.sites, result.attempts) == (SITES, 1)
    session.close("done")
    assert all(player.result() == [(0, 0), (1, 0), (2, 0)] for player in players)
    assert not session.departures


def test_a_site_that_sends_nothing_is_left_out_and_the_rest_send_again(
    pool: ThreadPoolExecutor,
) -> None:
    session = make()
    players = start(pool, session, "a", "b", "c")

    def vanish() -> None:
        join_session(session, "d")
        ready(session, "d")

    pool.submit(vanish)
    session.exchange_keys()
    result = session.sum(0, ADAPTER)
    session.close("done")
    assert (result.total.tolist(), result.sites, result.attempts) == ([111] * 5, ("a", "b", "c"), 2)
    assert players[0].result() == [(0, 0), (0, 1)]
    assert "no vector" in session.departures["d"]


def test_a_late_upload_is_never_added(pool: ThreadPoolExecutor) -> None:
    session = make()
    start(pool, session, "a", "b", "c")
    late: Future[wire.Turn] = pool.submit(
        lambda: (join_session(session, "d"), ready(session, "d"))[1]
    )
    session.exchange_keys()
    result = session.sum(0, ADAPTER)
    with pytest.raises(ProtocolError, match="not open"):
        session.upload("d", parts("d", late.result().go))
    assert result.total.tolist() == [111] * 5
    session.close("done")


def test_an_upload_that_ends_after_its_attempt_is_not_added(pool: ThreadPoolExecutor) -> None:
    session, hold = make(), threading.Event()
    start(pool, session, "a", "b", "c")

    def slow() -> wire.Receipt:
        join_session(session, "d")
        go = ready(session, "d").go

        def dripping() -> Iterator[wire.UploadPart]:
            header, chunk = parts("d", go)
            yield header
            hold.wait(10)
            yield chunk

        return session.upload("d", dripping())

    upload = pool.submit(slow)
    session.exchange_keys()
    result = session.sum(0, ADAPTER)
    hold.set()
    with pytest.raises(ProtocolError):
        upload.result()
    assert result.total.tolist() == [111] * 5
    session.close("done")


def test_a_site_that_refuses_before_go_costs_no_attempt(pool: ThreadPoolExecutor) -> None:
    session = make()
    start(pool, session, "a", "b", "c")
    refusing = pool.submit(
        lambda: (join_session(session, "d"), ready(session, "d", "budget spent"))[1]
    )
    session.exchange_keys()
    result = session.sum(0, ADAPTER)
    session.close("done")
    assert (result.attempts, result.sites) == (1, ("a", "b", "c"))
    assert refusing.result().finished.reason == "budget spent"
    assert session.departures == {"d": "budget spent"}


def test_fewer_than_the_minimum_make_no_sum(pool: ThreadPoolExecutor) -> None:
    session = make(minimum=4)
    start(pool, session, "a", "b", "c")
    pool.submit(lambda: (join_session(session, "d"), ready(session, "d", "no")))
    session.exchange_keys()
    with pytest.raises(CohortTooSmall, match="d: no"):
        session.sum(0, ADAPTER)
    session.close("done")


def test_a_cohort_that_is_not_complete_exchanges_no_keys(pool: ThreadPoolExecutor) -> None:
    session = make()
    players = start(pool, session, "a", "b", "c")
    with pytest.raises(CohortTooSmall, match="d: did not join"):
        session.exchange_keys()
    session.close("done")
    for player in players:
        with pytest.raises(ProtocolError):
            player.result()


@pytest.mark.parametrize("length", [0, 4, 6])
def test_a_vector_of_the_wrong_length_hurts_only_its_sender(
    pool: ThreadPoolExecutor, length: int
) -> None:
    session = make()
    start(pool, session, "a", "b", "c")

    def wrong() -> None:
        join_session(session, "d")
        session.upload("d", parts("d", ready(session, "d").go, np.ones(length, np.uint32)))

    player = pool.submit(wrong)
    session.exchange_keys()
    result = session.sum(0, ADAPTER)
    assert result.total.tolist() == [111] * 5
    with pytest.raises(ProtocolError):
        player.result()
    session.close("done")


def test_a_second_vector_or_a_strangers_call_is_refused(pool: ThreadPoolExecutor) -> None:
    session = make()
    start(pool, session, "b", "c", "d")

    def twice() -> None:
        join_session(session, "a")
        go = ready(session, "a").go
        session.upload("a", parts("a", go))
        session.upload("a", parts("a", go))

    with pytest.raises(ProtocolError, match="no such session"):
        ready(session, "eve")
    player = pool.submit(twice)
    session.exchange_keys()
    assert session.sum(0, ADAPTER).total.tolist() == [1111] * 5
    with pytest.raises(ProtocolError):
        player.result()
    session.close("done")


@pytest.mark.parametrize("version", [0, 2])
def test_a_site_of_another_version_is_refused_at_the_door(version: int) -> None:
    session = make()
    message = wire.Announcement(protocol=version, session=SESSION, site="a")
    with pytest.raises(ProtocolError, match=f"protocol {version}, this program uses 1"):
        session.announce("a", message)


def test_a_message_beyond_its_limits_is_refused() -> None:
    session = make()
    with pytest.raises(ProtocolError, match=r"ReadyRequest\.refusal"):
        ready(session, "a", "x" * 2001)
    with pytest.raises(ProtocolError, match=r"UploadHeader\.session"):
        session.upload("a", iter([wire.UploadPart(header=wire.UploadHeader(session="5" * 33))]))


def test_only_the_current_adapter_is_given_out(pool: ThreadPoolExecutor) -> None:
    session = make()
    start(pool, session, *SITES)
    session.exchange_keys()
    session.sum(0, ADAPTER)
    with pytest.raises(ProtocolError, match="not the current one"):
        session.adapter("a", wire.AdapterRequest(session=SESSION, digest="0" * 64))
    session.close("done")
