"""Vectors of 32-bit words on the wire: chunks with a sequence number and a checksum.

The checksum (XXH3-64) finds accidents, as fast as memory is read. Against deliberate changes there
is TLS; who changes its own upload can only spoil the sum.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from hortus.protocol.errors import ProtocolError
from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.wire import aggregation_pb2 as wire

Word = TypeVar("Word", np.float32, np.uint32)


def little_endian(vector: NDArray[Any]) -> NDArray[Any]:
    """Returns the vector with its 32-bit words in the byte order of the wire."""
    return np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))


def vector_digest(vector: NDArray[np.float32]) -> str:
    """Returns the SHA-256 of an adapter's little-endian words, 64 hexadecimal digits."""
    return hashlib.sha256(little_endian(vector).data).hexdigest()


def chunk_count(length: int) -> int:
    """Returns how many chunks a vector of so many words is."""
    return -(-length // CHUNK_WORDS)


def chunk_slice(sequence: int, length: int) -> slice:
    """Returns where a chunk belongs in a vector of so many words."""
    start = sequence * CHUNK_WORDS
    return slice(start, min(start + CHUNK_WORDS, length))


def fill(chunk: wire.Chunk, sequence: int, words: bytes) -> wire.Chunk:
    """Makes an empty message this chunk, and returns it; `words` are little-endian.

    A chunk that is put into another message would be copied; one that is filled there is not.
    """
    chunk.sequence = sequence
    chunk.words = words
    chunk.checksum = xxhash.xxh3_64_intdigest(words)
    return chunk


def unpack(chunk: wire.Chunk, due: int, dtype: type[Word], length: int) -> NDArray[Word]:
    """Returns a chunk's words, those at `chunk_slice(due, length)`, without a copy.

    Args:
        chunk: What came.
        due: The sequence number expected.
        dtype: `np.float32` or `np.uint32`.
        length: Words in the whole vector.

    Raises:
        ProtocolError: It is another chunk, damaged, or not as long as it must be.
    """
    if due >= chunk_count(length):
        raise ProtocolError(f"a chunk came after the {length} words of the vector")
    if chunk.sequence != due:
        raise ProtocolError(f"chunk {chunk.sequence} came where {due} was due")
    words = chunk.words
    place = chunk_slice(due, length)
    if len(words) != 4 * (place.stop - place.start):
        raise ProtocolError(
            f"chunk {due} has {len(words)} bytes, not {4 * (place.stop - place.start)}"
        )
    if xxhash.xxh3_64_intdigest(words) != chunk.checksum:
        raise ProtocolError(f"chunk {due} is damaged: its checksum differs")
    received = np.frombuffer(words, dtype=np.dtype(dtype).newbyteorder("<"))
    return received.astype(dtype, copy=False)


def split(vector: NDArray[Word], first: int = 0) -> Iterator[wire.Chunk]:
    """Yields the chunks of a float32 or uint32 vector from one on; copies one at a time."""
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
