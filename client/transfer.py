"""Moving a step's vectors, chunk by chunk, over connections that may break on the way."""

import logging
from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from hortus.client.states import ClientState, ClientStates
from hortus.privacy.secure_sum.masks import MaskedVector
from hortus.protocol.limits import checked
from hortus.protocol.transport import AggregationChannel
from hortus.protocol.vectors import fill, receive
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ConnectionLost, ProtocolError

MAX_RESUMPTIONS = 20
logger = logging.getLogger(__name__)


def download(
    channel: AggregationChannel, session: str, digest: str, dimension: int
) -> NDArray[np.float32]:
    """Fetches the adapter of a step, float32[d]; the caller checks its digest.

    Raises:
        ProtocolError: It is not whole, or the connection broke too often.
    """
    adapter, due, breaks = np.empty(dimension, np.float32), 0, 0
    while True:
        request = wire.AdapterRequest(session=session, digest=digest, first_sequence=due)
        try:
            arriving = receive(channel.adapter(request), adapter, due)
            for due in arriving:  # noqa: B007 - it says how far the vector is filled
                pass
        except ConnectionLost as error:
            breaks += 1
            if breaks > MAX_RESUMPTIONS:
                raise
            logger.warning("the adapter's download resumes at chunk %d: %s", due, error)
        else:
            return adapter


def upload(
    channel: AggregationChannel,
    header: wire.UploadHeader,
    masked: MaskedVector,
    states: ClientStates,
) -> None:
    """Sends a masked vector; after a break it resumes at the chunk that the server asks for.

    Whatever the server asks for, it is the same vector under the same masks.

    Raises:
        ProtocolError: The server takes it no more, or the connection broke too often.
    """
    lost: ConnectionLost | None = None
    for _ in range(1 + MAX_RESUMPTIONS):
        try:
            first = 0 if lost is None else checked(channel.progress(header)).next_sequence
            if first > masked.chunk_count:
                raise ProtocolError(f"the server asked for chunk {first} of {masked.chunk_count}")
            if first == masked.chunk_count:
                return  # only the receipt was lost
            states.enter(ClientState.UPLOADING)
            channel.upload(_parts(header, masked, first))
        except ConnectionLost as error:
            lost = error
            states.enter(ClientState.BROKEN)
            logger.warning("step %d attempt %d: %s", header.step, header.attempt, error)
        else:
            return
    raise lost or ProtocolError("the upload was never begun")


def _parts(
    header: wire.UploadHeader, masked: MaskedVector, first: int
) -> Iterator[wire.UploadPart]:
    opening = wire.UploadPart(header=header)
    opening.header.first_sequence = first
    yield opening
    # No name for a chunk here: it would stay in memory while the next one is made.
    yield from map(_part, count(first), masked.chunks(first))


def _part(sequence: int, words: bytes) -> wire.UploadPart:
    part = wire.UploadPart()
    fill(part.chunk, sequence, words)
    return part
