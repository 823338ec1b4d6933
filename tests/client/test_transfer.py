"""A vector arrives once and whole, however often the connection breaks; or it is given up in time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from hortus.client.states import ClientState, ClientStates
from hortus.client.transfer import MAX_RESUMPTIONS, download, upload
from hortus.protocol.vectors import chunk_slice, fill
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ConnectionLost, ProtocolError

DIMENSION = 3 * (chunk_slice(0, 2**30).stop) + 5
CHUNKS = 4
WORDS = np.arange(DIMENSION, dtype=np.float32)


@dataclass
class Vector:
    """A masked vector as far as an upload looks at it."""

    chunk_count: int = CHUNKS

    def chunks(self, first: int) -> Iterator[bytes]:
        for number in range(first, self.chunk_count):
            yield bytes([number])


@dataclass
class Server:
    """Takes an upload, and breaks the connection after as many chunks as it is told, time after time."""

    breaks: list[int]
    told: list[int] | None = None
    taken: list[int] = field(default_factory=list)

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        assert next(parts).header.first_sequence == len(self.taken)
        for number, part in enumerate(parts):
            if self.breaks and number == self.breaks[0]:
                break
            self.taken.append(part.chunk.words[0])
        if self.breaks:
            del self.breaks[0]
            raise ConnectionLost("it broke")
        return wire.Receipt()

    def progress(self, _: wire.UploadHeader) -> wire.UploadProgress:
        told = self.told.pop(0) if self.told else len(self.taken)
        return wire.UploadProgress(next_sequence=told)

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        for sequence in range(request.first_sequence, CHUNKS):
            if self.breaks and sequence - request.first_sequence == self.breaks[0]:
                del self.breaks[0]
                raise ConnectionLost("it broke")
            chunk = wire.Chunk()
            fill(chunk, sequence, WORDS[chunk_slice(sequence, DIMENSION)].tobytes())
            yield chunk


def charged() -> ClientStates:
    states = ClientStates()
    for state in ("ANNOUNCED", "KEYED", "READY", "CALLED", "CHARGED"):
        states.enter(ClientState[state])
    return states


def send(server: Server) -> ClientState:
    states = charged()
    upload(server, wire.UploadHeader(step=1), Vector(), states)  # type: ignore[arg-type]
    return states.now


@pytest.mark.parametrize("breaks", [[], [0], [1], [2, 0, 1], [4], [0] * MAX_RESUMPTIONS], ids=str)
def test_every_chunk_is_sent_once_and_in_order(breaks: list[int]) -> None:
    server = Server(list(breaks))
    assert send(server) in (ClientState.UPLOADING, ClientState.BROKEN)
    assert server.taken == [0, 1, 2, 3]


def test_a_connection_that_always_breaks_is_given_up() -> None:
    server = Server([0] * (MAX_RESUMPTIONS + 1))
    with pytest.raises(ConnectionLost):
        send(server)


def test_a_server_that_asks_for_a_chunk_that_there_is_not_is_refused() -> None:
    with pytest.raises(ProtocolError, match="asked for chunk 5 of 4"):
        send(Server([1], told=[5]))


@pytest.mark.parametrize("breaks", [[], [0], [3], [1, 1, 1], [0] * MAX_RESUMPTIONS], ids=str)
def test_an_adapter_is_put_together_over_broken_connections(breaks: list[int]) -> None:
    found = download(Server(list(breaks)), "s", "d", DIMENSION)  # type: ignore[arg-type]
    assert found.tobytes() == WORDS.tobytes()


def test_a_download_that_always_breaks_is_given_up() -> None:
    server = Server([0] * (MAX_RESUMPTIONS + 1))
    with pytest.raises(ConnectionLost):
        download(server, "s", "d", DIMENSION)  # type: ignore[arg-type]
