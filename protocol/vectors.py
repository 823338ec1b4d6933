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


def pack(sequence: int, words: bytes) -> wire.Chunk:
    """Returns a chunk; `words` are little-endian."""
    return wire.Chunk(sequence=sequence, words=words, checksum=xxhash.xxh3_64_intdigest(words))


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


def split(vector: NDArray[Word]) -> Iterator[wire.Chunk]:
    """Yields the chunks of a float32 or uint32 vector; copies one at a time."""
    words = little_endian(vector)
    for sequence in range(chunk_count(len(words))):
        yield pack(sequence, words[chunk_slice(sequence, len(words))].tobytes())


def join(chunks: Iterable[wire.Chunk], dtype: type[Word], length: int) -> NDArray[Word]:
    """Puts a vector together again, chunk by chunk.

    Args:
        chunks: The pieces, in order.
        dtype: `np.float32` or `np.uint32`.
        length: Words that there must be.

    Raises:
        ProtocolError: A piece is missing, repeated, damaged, of a wrong length or one too many.
    """
    vector = np.empty(length, dtype)
    arrived = 0
    for chunk in chunks:
        vector[chunk_slice(arrived, length)] = unpack(chunk, arrived, dtype, length)
        arrived += 1
    if arrived < chunk_count(length):
        raise ProtocolError(f"the vector ended after {arrived} of its {chunk_count(length)} chunks")
    return vector
