"""Vectors of 32-bit words on the wire: chunks with a sequence number and a checksum."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hortus.protocol.errors import ProtocolError
from hortus.protocol.wire import aggregation_pb2 as wire

CHUNK_WORDS = 2**18  # 1 MiB

Word = TypeVar("Word", np.float32, np.uint32)


def little_endian(vector: NDArray[Any]) -> NDArray[Any]:
    """Returns the vector with its 32-bit words in the byte order of the wire."""
    return np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))


def vector_digest(vector: NDArray[np.float32]) -> str:
    """Returns the SHA-256 of an adapter's little-endian words, 64 hexadecimal digits."""
    return hashlib.sha256(little_endian(vector).data).hexdigest()


def split(vector: NDArray[Word]) -> Iterator[wire.Chunk]:
    """Yields the chunks of a float32 or uint32 vector."""
    words = little_endian(vector)
    for sequence, start in enumerate(range(0, len(words), CHUNK_WORDS)):
        piece = words[start : start + CHUNK_WORDS].tobytes()
        yield wire.Chunk(sequence=sequence, words=piece, crc32=zlib.crc32(piece))


def join(chunks: Iterable[wire.Chunk], dtype: type[Word], length: int) -> NDArray[Word]:
    """Puts a vector together again.

    Args:
        chunks: The pieces, in order.
        dtype: `np.float32` or `np.uint32`.
        length: Words that there must be.

    Raises:
        ProtocolError: A piece is missing, repeated, damaged, too long or too many.
    """
    vector = np.empty(length, dtype=np.dtype(dtype).newbyteorder("<"))
    filled = 0
    for expected, chunk in enumerate(chunks):
        if chunk.sequence != expected:
            raise ProtocolError(f"chunk {chunk.sequence} came where {expected} was due")
        if len(chunk.words) % 4 or not 0 < len(chunk.words) // 4 <= min(
            CHUNK_WORDS, length - filled
        ):
            raise ProtocolError(f"chunk {expected} has {len(chunk.words)} bytes, more than are due")
        if zlib.crc32(chunk.words) != chunk.crc32:
            raise ProtocolError(f"chunk {expected} is damaged: its checksum differs")
        piece = np.frombuffer(chunk.words, dtype=vector.dtype)
        vector[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled != length:
        raise ProtocolError(f"the vector ended after {filled} of {length} words")
    return vector.astype(dtype, copy=False)
