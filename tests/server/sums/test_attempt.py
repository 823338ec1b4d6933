"""An attempt's total holds every vector whole, or is given to nobody."""

import threading
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.vectors import chunk_count, fill, pack24, split, word_type
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError
from hortus.server.sums.attempt import Attempt

SITES = ("a", "b", "c")
LENGTH = CHUNK_WORDS + 7
VECTORS = {
    site: np.random.default_rng(number).integers(0, 2**32, LENGTH, dtype=np.uint32)
    for number, site in enumerate(SITES)
}
SUM = np.sum(list(VECTORS.values()), axis=0, dtype=np.uint32)


def attempt() -> Attempt:
    return Attempt(0, 0, SITES, LENGTH)


def send(to: Attempt, site: str, chunks: int = 2, values: NDArray[np.uint32] | None = None) -> int:
    """Sends so many chunks, from the one that is due; returns how many the server has then."""
    stream, due = to.open_stream(site)
    arriving = split(VECTORS[site] if values is None else values, due)
    for _ in range(chunks):
        to.add(site, stream, next(arriving))
    return due + chunks


def test_all_vectors_make_the_sum() -> None:
    one = attempt()
    for site in SITES:
        send(one, site)
    one.close()
    assert np.array_equal(one.total(), SUM)


def test_a_ring_of_24_bits_adds_modulo_its_own_size() -> None:
    """Planted: a total left modulo 2^32 carries beyond the ring."""
    one = Attempt(0, 0, SITES, 3, ring_bits=24)
    words = np.array([2**23, 2**24 - 1, 5], np.uint32)
    for site in SITES:
        packed = np.empty(3, word_type(24))
        pack24(words, packed)
        stream, _ = one.open_stream(site)
        with pytest.raises(ProtocolError, match="12 bytes, not 9"):
            one.add(site, stream, next(split(words)))
        assert one.add(site, stream, fill(wire.Chunk(), 0, packed.tobytes()))
    one.close()
    assert one.total().tolist() == [2**23, 2**24 - 3, 15]


@pytest.mark.parametrize("chunks", [0, 1])
def test_half_a_vector_gives_no_total(chunks: int) -> None:
    one = attempt()
    for site in SITES:
        send(one, site, 2 if site != "b" else chunks)
    one.close()
    assert one.delivered == {"a", "c"}
    with pytest.raises(RuntimeError, match="only a closed and complete attempt"):
        one.total()
    with pytest.raises(ProtocolError, match="too late"):
        send(one, "b", 1)
    with pytest.raises(RuntimeError, match="only a closed and complete attempt"):
        one.total()


def test_an_open_attempt_gives_no_total() -> None:
    one = attempt()
    for site in SITES:
        send(one, site)
    with pytest.raises(RuntimeError):
        one.total()


def test_a_broken_upload_goes_on_and_counts_once() -> None:
    one = attempt()
    for site in SITES:
        send(one, site, 1)
    for site in SITES:
        assert one.open_stream(site)[1] == 1
        send(one, site, 1)
    one.close()
    assert np.array_equal(one.total(), SUM)


def test_an_old_connection_adds_nothing_after_a_new_one_has_begun() -> None:
    one = attempt()
    old, _ = one.open_stream("a")
    new, _ = one.open_stream("a")
    first, second = split(VECTORS["a"])
    with pytest.raises(ProtocolError, match="taken over"):
        one.add("a", old, first)
    assert one.add("a", new, first) is False
    with pytest.raises(ProtocolError, match="taken over"):
        one.add("a", old, second)
    assert one.add("a", new, second) is True


def damaged() -> Iterator[wire.Chunk]:
    first, second = split(VECTORS["a"])
    yield second
    yield wire.Chunk(sequence=0, words=first.words, checksum=first.checksum ^ 1)
    yield wire.Chunk(sequence=0, words=first.words[:-4], checksum=first.checksum)
    yield wire.Chunk()


@pytest.mark.parametrize("chunk", list(damaged()), ids=["reordered", "flipped", "short", "empty"])
def test_a_chunk_that_is_refused_is_not_added(chunk: wire.Chunk) -> None:
    one = attempt()
    stream, _ = one.open_stream("a")
    with pytest.raises(ProtocolError):
        one.add("a", stream, chunk)
    for site in SITES:
        send(one, site)
    one.close()
    assert np.array_equal(one.total(), SUM)


def test_a_chunk_too_many_is_refused_and_not_added() -> None:
    one = attempt()
    for site in SITES:
        send(one, site)
    stream, due = one.open_stream("a")
    assert due == chunk_count(LENGTH)
    for chunk in split(VECTORS["a"]):
        with pytest.raises(ProtocolError):
            one.add("a", stream, chunk)
    one.close()
    assert np.array_equal(one.total(), SUM)


def test_sites_that_send_at_once_do_not_lose_an_addition() -> None:
    """Unlocked additions of the same place from many threads lose some almost surely."""
    sites = tuple(f"s{number}" for number in range(8))
    one = Attempt(0, 0, sites, 4 * CHUNK_WORDS)
    ones = np.ones(4 * CHUNK_WORDS, np.uint32)
    start = threading.Barrier(len(sites))

    def bring(site: str) -> None:
        start.wait()
        send(one, site, 4, ones)

    threads = [threading.Thread(target=bring, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    assert (one.total() == len(sites)).all()


@given(st.lists(st.tuples(st.sampled_from(SITES), st.integers(0, 2), st.booleans()), max_size=12))
@settings(max_examples=40, deadline=None)
def test_whatever_arrives_the_total_is_the_sum_or_nothing(
    events: list[tuple[str, int, bool]],
) -> None:
    """Each event: a site's new connection brings so many chunks, perhaps repeating the last one."""
    one, had = attempt(), dict.fromkeys(SITES, 0)
    for site, chunks, repeats in events:
        stream, due = one.open_stream(site)
        assert due == had[site]
        for chunk in list(split(VECTORS[site], due))[:chunks]:
            one.add(site, stream, chunk)
            had[site] += 1
            if repeats:
                with pytest.raises(ProtocolError):
                    one.add(site, stream, chunk)
    one.close()
    assert one.delivered == {site for site in SITES if had[site] == 2}
    if one.delivered == set(SITES):
        assert np.array_equal(one.total(), SUM)
    else:
        with pytest.raises(RuntimeError):
            one.total()


def test_adding_takes_the_memory_of_two_chunks_however_long_the_vector() -> None:
    one = Attempt(0, 0, SITES, 8 * CHUNK_WORDS)
    sent = [chunk.SerializeToString() for chunk in split(np.ones(8 * CHUNK_WORDS, np.uint32))]
    tracemalloc.start()
    try:
        stream, _ = one.open_stream("a")
        for raw in sent:
            one.add("a", stream, wire.Chunk.FromString(raw))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2 * 4 * CHUNK_WORDS
