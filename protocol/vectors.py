"""Vectors on the wire, of 32-bit or of 24-bit words: chunks with a sequence number and a checksum.

The checksum (XXH3-64) finds accidents, as fast as memory is read. TLS protects against deliberate changes; a site that
changes its own upload can only spoil the sum.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError

Word = TypeVar("Word", np.float32, np.uint32)

# Three bytes, the first the least: numpy moves each part at the speed of a cast.
_WORD24 = np.dtype([("low", "<u2"), ("high", "u1")])


def little_endian(vector: NDArray[Any]) -> NDArray[Any]:
    """Returns the vector with its 32-bit words in the byte order of the wire."""
    return np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))


def vector_digest(vector: NDArray[np.float32]) -> str:
    """Returns the SHA-256 of an adapter's little-endian words, 64 hexadecimal digits."""
    return hashlib.sha256(little_endian(vector).data).hexdigest()


def chunk_count(length: int) -> int:
    """Returns how many chunks a vector of this many words is."""
    return -(-length // CHUNK_WORDS)


def chunk_slice(sequence: int, length: int) -> slice:
    """Returns where a chunk belongs in a vector of this many words."""
    start = sequence * CHUNK_WORDS
    return slice(start, min(start + CHUNK_WORDS, length))


def fill(chunk: wire.Chunk, sequence: int, words: bytes) -> wire.Chunk:
    """Fills an empty message with this chunk, and returns it; `words` are little-endian.

    A chunk that is put into another message would be copied; one that is filled there is not.
    """
    chunk.sequence = sequence
    chunk.words = words
    chunk.checksum = xxhash.xxh3_64_intdigest(words)
    return chunk


def word_type(bits: int) -> np.dtype[Any]:
    """Returns the dtype of a word on the wire, of 32 or of 24 bits."""
    return np.dtype("<u4") if bits == 32 else _WORD24


def pack24(words: NDArray[np.uint32], into: NDArray[Any]) -> None:
    """Writes uint32[n] modulo 2^24 into n words of `word_type(24)`."""
    into["low"] = words
    into["high"] = words >> 16


def unpack24(packed: NDArray[Any]) -> NDArray[np.uint32]:
    """Returns the elements that `pack24` wrote, below 2^24."""
    words = packed["high"].astype(np.uint32)
    words <<= 16
    words |= packed["low"]
    return words


def unpack(
    chunk: wire.Chunk, due: int, dtype: type[Word], length: int, bits: int = 32
) -> NDArray[Word]:
    """Returns a chunk's words, those at `chunk_slice(due, length)`; of 32 bits, without a copy.

    Args:
        chunk: What came.
        due: The sequence number expected.
        dtype: `np.float32` or `np.uint32`.
        length: Words in the whole vector.
        bits: Of a word: 32, or 24 for `np.uint32`.

    Raises:
        ProtocolError: It is another chunk, damaged, or not as long as it must be.
    """
    if due >= chunk_count(length):
        raise ProtocolError(f"a chunk came after the {length} words of the vector")
    if chunk.sequence != due:
        raise ProtocolError(f"chunk {chunk.sequence} came where {due} was due")
    words = chunk.words
    place = chunk_slice(due, length)
    size = bits // 8 * (place.stop - place.start)
    if len(words) != size:
        raise ProtocolError(f"chunk {due} has {len(words)} bytes, not {size}")
    if xxhash.xxh3_64_intdigest(words) != chunk.checksum:
        raise ProtocolError(f"chunk {due} is damaged: its checksum differs")
    if bits != 32:
        return unpack24(np.frombuffer(words, word_type(bits))).astype(dtype, copy=False)
    received = np.frombuffer(words, dtype=np.dtype(dtype).newbyteorder("<"))
    return received.astype(dtype, copy=False)


def split(vector: NDArray[Word], first: int = 0) -> Iterator[wire.Chunk]:
    """Yields the chunks of a float32 or uint32 vector, from the given one; copies one at a time."""
    words = little_endian(vector)
    for sequence in range(first, chunk_count(len(words))):
        place = chunk_slice(sequence, len(words))
        yield fill(wire.Chunk(), sequence, words[place].tobytes())


def receive(chunks: Iterable[wire.Chunk], vector: NDArray[Word], first: int = 0) -> Iterator[int]:
    """Writes chunks into a vector as they come.

    Args:
        chunks: The pieces, in order.
        vector: float32[d] or uint32[d], filled in place.
        first: Sequence number of the first piece.

    Yields:
        After each piece, the sequence number of the next: what came before it is in the vector.

    Raises:
        ProtocolError: A piece is missing, repeated, damaged, of a wrong length or one too many.
    """
    due, length = first, len(vector)
    for chunk in chunks:
        vector[chunk_slice(due, length)] = unpack(chunk, due, vector.dtype.type, length)
        due += 1
        yield due
    if due < chunk_count(length):
        raise ProtocolError(f"the vector ended after {due} of its {chunk_count(length)} chunks")
