from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.vectors import (
    chunk_count,
    fill,
    pack24,
    receive,
    split,
    unpack,
    unpack24,
    vector_digest,
    word_type,
)
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError


def join(chunks: Iterable[wire.Chunk], dtype: type, length: int) -> np.ndarray:
    vector = np.empty(length, dtype)
    for _ in receive(chunks, vector):
        pass
    return vector


LENGTHS = (1, 5, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 2 * CHUNK_WORDS + 3)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_a_vector_survives_the_wire_bit_for_bit(length: int, dtype: type) -> None:
    words = np.random.default_rng(1).integers(0, 2**32, length, dtype=np.uint32)
    vector = words.view(dtype)
    received = join(split(vector), dtype, length)
    assert received.dtype == dtype
    assert received.tobytes() == vector.tobytes()


def chunks(length: int = CHUNK_WORDS + 7) -> list[wire.Chunk]:
    return list(split(np.arange(length, dtype=np.uint32)))


def damaged(name: str) -> list[wire.Chunk]:
    first, second = chunks()
    flipped = wire.Chunk()
    flipped.CopyFrom(second)
    flipped.words = bytes([second.words[0] ^ 1]) + second.words[1:]
    ragged = fill(wire.Chunk(), 1, b"abc")
    short = fill(wire.Chunk(), 0, first.words[:4])
    return {
        "missing": [first],
        "repeated": [first, first],
        "reordered": [second, first],
        "flipped": [first, flipped],
        "ragged": [first, ragged],
        "short": [short, second],
        "endless": [first, second, fill(wire.Chunk(), 2, b"word")],
        "empty": [wire.Chunk(sequence=0)],
        "none": [],
    }[name]


@pytest.mark.parametrize(
    "name",
    ["missing", "repeated", "reordered", "flipped", "ragged", "short", "endless", "empty", "none"],
)
def test_a_damaged_stream_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        join(damaged(name), np.uint32, CHUNK_WORDS + 7)


@given(st.lists(st.binary(max_size=64), max_size=4), st.integers(1, 64))
def test_no_stream_of_bytes_does_more_than_raise_a_protocol_error(
    pieces: list[bytes], length: int
) -> None:
    stream = [wire.Chunk(sequence=i, words=piece) for i, piece in enumerate(pieces)]
    with pytest.raises(ProtocolError):
        join(stream, np.uint32, length)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_stream_that_broke_goes_on_where_it_ended(length: int) -> None:
    vector = np.random.default_rng(1).integers(0, 2**32, length, dtype=np.uint32)
    received = np.zeros_like(vector)
    due = 0
    while due < chunk_count(length):
        due = next(receive(split(vector, due), received, due))
    assert np.array_equal(received, vector)


def test_the_digest_is_of_the_little_endian_words() -> None:
    adapter = np.array([1.0, -2.5], np.float32)
    assert vector_digest(adapter) == vector_digest(adapter.astype(">f4"))
    assert vector_digest(adapter) != vector_digest(adapter[::-1])


def packed(words: np.ndarray) -> bytes:
    into = np.empty(len(words), word_type(24))
    pack24(words, into)
    return into.tobytes()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_words_of_24_bits_are_three_bytes_and_keep_what_is_below_the_rings_size(
    numbers: list[int],
) -> None:
    sent = packed(np.array(numbers, np.uint32))
    assert sent == b"".join((number % 2**24).to_bytes(3, "little") for number in numbers)
    received = unpack24(np.frombuffer(sent, word_type(24)))
    assert received.tolist() == [number % 2**24 for number in numbers]


@pytest.mark.parametrize(("told", "due"), [(24, 32), (32, 24)])
def test_a_chunk_of_another_rings_words_is_refused(told: int, due: int) -> None:
    words = np.arange(6, dtype=np.uint32)
    sent = fill(wire.Chunk(), 0, packed(words) if told == 24 else words.tobytes())
    assert unpack(sent, 0, np.uint32, 6, told).tolist() == words.tolist()
    with pytest.raises(ProtocolError, match=f"has {6 * told // 8} bytes, not {6 * due // 8}"):
        unpack(sent, 0, np.uint32, 6, due)
