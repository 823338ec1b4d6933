"""The data plane as a site sees it, the same in memory and over gRPC."""

from collections.abc import Iterator
from typing import Protocol

from hortus.protocol.limits import CHUNK_WORDS, MAX_MESSAGE_BYTES
from hortus.protocol.wire import aggregation_pb2 as wire

# A peer behind a broken network is noticed after KEEPALIVE + KEEPALIVE_TIMEOUT. A gRPC server disconnects clients
# that ping more often than every five minutes, unless told otherwise.
KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 20.0

# What may be in flight in a stream: two chunks. By default, gRPC would use up to 16 MiB for each.
STREAM_BYTES = 2 * 4 * CHUNK_WORDS


def connection_options() -> list[tuple[str, int]]:
    """Returns the gRPC options of both ends. A call may wait for hours, but not for a dead peer, and the data in flight in a stream is bounded."""
    every, patience = int(1000 * KEEPALIVE_SECONDS), int(1000 * KEEPALIVE_TIMEOUT_SECONDS)
    return [
        ("grpc.keepalive_time_ms", every),
        ("grpc.keepalive_timeout_ms", patience),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", STREAM_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", every // 2),
    ]


class AggregationChannel(Protocol):
    """A site's authenticated connection to the aggregation service (aggregation.proto)."""

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        """Leaves this site's ephemeral keys and waits for everybody's."""
        ...

    def encapsulate(self, request: wire.Encapsulations) -> wire.Encapsulations:
        """Leaves this site's ciphertexts for the others and waits for theirs."""
        ...

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        """Waits for what this site does next."""
        ...

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """Streams the adapter of the current step.

        Raises:
            ConnectionLost: Chunks may be missing; ask for the rest.
        """
        ...

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """Streams a masked vector.

        Raises:
            ConnectionLost: `progress` says how much of it arrived.
        """
        ...

    def progress(self, request: wire.UploadHeader) -> wire.UploadProgress:
        """Asks where a broken upload resumes, once the server can be reached again."""
        ...
