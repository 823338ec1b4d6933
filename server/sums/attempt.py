"""One attempt at a secure sum: masked vectors added chunk by chunk, all of them or none."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hortus.protocol.vectors import chunk_count, chunk_slice, unpack
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError
from hortus.runtime.faults import Fault, reach


@dataclass(slots=True)
class _Upload:
    """How far a site's vector has come; `stream` numbers the connections that brought it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stream: int = 0
    due: int = 0


class Attempt:
    """The running total of one (step, attempt).

    No site's vector is ever held: a chunk is added to the total when it comes. Until every site's
    last chunk is in it the total is of no use to anybody, and `total` does not give it out; an
    attempt that is closed before is thrown away with what it has of a site. Sites add side by side.

    Args:
        step: Number of the step in the session.
        number: Number of the attempt at it.
        sites: U′, sorted.
        dimension: Words in a vector.
        ring_bits: Vectors are added modulo 2 to this power.
    """

    def __init__(
        self, step: int, number: int, sites: Iterable[str], dimension: int, ring_bits: int = 32
    ) -> None:
        self.step = step
        self.number = number
        self.sites = tuple(sites)
        self._dimension = dimension
        self._ring_bits = ring_bits
        self._chunks = chunk_count(dimension)
        self._total = np.zeros(dimension, np.uint32)
        # Two sites may bring the same chunk at once: one lock for each place in the total.
        self._places = [threading.Lock() for _ in range(self._chunks)]
        self._uploads = {site: _Upload() for site in self.sites}
        self._closed = False

    @property
    def delivered(self) -> frozenset[str]:
        """The sites whose whole vectors are in the total."""
        return frozenset(s for s, upload in self._uploads.items() if upload.due == self._chunks)

    @property
    def heard(self) -> frozenset[str]:
        """The sites of whose vectors something is in the total, or was in what was thrown away."""
        found = set()
        for site, upload in self._uploads.items():
            with upload.lock:
                if upload.due:
                    found.add(site)
        return frozenset(found)

    def open_stream(self, site: str) -> tuple[int, int]:
        """Starts a connection's turn: no chunk of an earlier connection of the site is added after.

        Returns:
            The connection's number, and the sequence number of the chunk that is due.
        """
        upload = self._uploads[site]
        with upload.lock:
            upload.stream += 1
            return upload.stream, upload.due

    def add(self, site: str, stream: int, chunk: wire.Chunk) -> bool:
        """Adds the chunk that is due; returns whether it was the last.

        Args:
            site: Whose.
            stream: What `open_stream` returned.
            chunk: The chunk.

        Raises:
            ProtocolError: The attempt is closed, another connection has taken over, or the chunk
                is not the one due or not whole. Nothing was added.
        """
        upload = self._uploads[site]
        with upload.lock:
            if upload.stream != stream:
                raise ProtocolError("another connection has taken over this upload", where=site)
            words = unpack(chunk, upload.due, np.uint32, self._dimension, self._ring_bits)
            with self._places[upload.due]:
                if self._closed:
                    raise ProtocolError("the upload came too late and was not added", where=site)
                reach(Fault.SERVER_BEFORE_CHUNK)
                part = self._total[chunk_slice(upload.due, self._dimension)]
                np.add(part, words, out=part)
            upload.due += 1
            reach(Fault.SERVER_AFTER_CHUNK)
            return upload.due == self._chunks

    def close(self) -> None:
        """Adds nothing more."""
        self._closed = True

    def total(self) -> NDArray[np.uint32]:
        """Returns the ring sum, uint32[d], each word below the ring's size.

        Raises:
            RuntimeError: It is not closed, or not complete: then it is noise with holes.
        """
        if not self._closed or self.delivered != frozenset(self.sites):
            raise RuntimeError("only a closed and complete attempt has a total")
        # Added modulo 2^32, which the size of a smaller ring divides.
        self._total &= np.uint32(2**self._ring_bits - 1)
        return self._total
