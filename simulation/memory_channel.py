"""A site's connection to the aggregation service within one process: plain calls."""

from collections.abc import Iterator

from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.server.sums.service import Hub


class MemoryChannel:
    """An `AggregationChannel` that calls the hub's current session.

    Args:
        hub: The server's.
        site: The name that mutual TLS would have established.
    """

    def __init__(self, hub: Hub, site: str) -> None:
        self._hub = hub
        self._site = site

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        """See `AggregationChannel`."""
        return self._hub.announce(self._hub.current, self._site, request)

    def encapsulate(self, request: wire.Encapsulations) -> wire.Encapsulations:
        """See `AggregationChannel`."""
        return self._hub.current.encapsulate(self._site, request)

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        """See `AggregationChannel`."""
        return self._hub.ready(self._hub.current, self._site, request)

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """See `AggregationChannel`."""
        return self._hub.current.adapter(self._site, request)

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """See `AggregationChannel`."""
        return self._hub.current.upload(self._site, parts)

    def progress(self, request: wire.UploadHeader) -> wire.UploadProgress:
        """See `AggregationChannel`."""
        return self._hub.current.progress(self._site, request)
