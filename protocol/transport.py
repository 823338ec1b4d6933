"""The data plane as a site sees it; in memory and over gRPC alike."""

from collections.abc import Iterator
from typing import Protocol

from hortus.protocol.wire import aggregation_pb2 as wire

MAX_MESSAGE_BYTES = 8 * 2**20


class AggregationChannel(Protocol):
    """A site's authenticated connection to the aggregation service (aggregation.proto)."""

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        """Leaves this site's ephemeral keys and waits for everybody's."""
        ...

    def encapsulate(self, request: wire.Encapsulations) -> wire.EncapsulationsOfAll:
        """Leaves this site's ciphertexts and waits for everybody's."""
        ...

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        """Waits for what this site does next."""
        ...

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """Streams the adapter of the current step."""
        ...

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """Streams a masked vector."""
        ...
