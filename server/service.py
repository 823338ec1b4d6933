"""The aggregation service over gRPC with mutual TLS: authenticates, then calls the aggregator."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast

import grpc

from hortus.protocol.consortium import TlsFiles
from hortus.protocol.errors import HortusError, ProtocolError
from hortus.protocol.transport import MAX_MESSAGE_BYTES
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc
from hortus.server.aggregator import Aggregator


class Hub:
    """Where the federation loop puts the session that sites may join now."""

    def __init__(self) -> None:
        self._current: Aggregator | None = None

    def open(self, aggregator: Aggregator) -> None:
        """Makes this the current session."""
        self._current = aggregator

    @property
    def current(self) -> Aggregator:
        """The current session.

        Raises:
            ProtocolError: There is none.
        """
        if self._current is None:
            raise ProtocolError("no session is open")
        return self._current


class _Servicer(rpc.AggregationServicer):
    """Translates between gRPC and the aggregator; the peer's certificate names the site."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def Announce(
        self, request: wire.Announcement, context: grpc.ServicerContext
    ) -> wire.Announcements:
        with _answering(context) as site:
            return self._hub.current.announce(site, request)

    def Encapsulate(
        self, request: wire.Encapsulations, context: grpc.ServicerContext
    ) -> wire.EncapsulationsOfAll:
        with _answering(context) as site:
            return self._hub.current.encapsulate(site, request)

    def Ready(self, request: wire.ReadyRequest, context: grpc.ServicerContext) -> wire.Turn:
        with _answering(context) as site:
            session, answered = self._hub.current, threading.Event()

            def ended() -> None:
                if not answered.is_set():
                    session.drop(site, "its connection was lost")

            context.add_callback(ended)
            turn = session.ready(site, request)
            answered.set()
            return turn

    def Adapter(
        self, request: wire.AdapterRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.Chunk]:
        with _answering(context) as site:
            yield from self._hub.current.adapter(site, request)

    def Upload(
        self, request_iterator: Iterator[wire.UploadPart], context: grpc.ServicerContext
    ) -> wire.Receipt:
        with _answering(context) as site:
            return self._hub.current.upload(site, request_iterator)


@contextmanager
def _answering(context: grpc.ServicerContext) -> Iterator[str]:
    """Yields the authenticated site; turns our errors into gRPC statuses."""
    # A property of the peer's certificate is a list of values, whatever the type stubs say.
    names = cast("Sequence[bytes]", context.auth_context().get("x509_common_name", ()))
    if len(names) != 1:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "a client certificate must name the site")
    try:
        yield names[0].decode()
    except HortusError as error:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


@contextmanager
def serving(hub: Hub, tls: TlsFiles, address: str, sites: int) -> Iterator[int]:
    """Serves the hub's sessions until the block is left; yields the port.

    Args:
        hub: Holds the current session.
        tls: The server's certificate, and the authority that clients' are checked against.
        address: Host and port; port 0 takes a free one.
        sites: Sites expected; each may hold one blocking call and a second beside it.

    Raises:
        HortusError: The address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(max_workers=2 * sites + 8, thread_name_prefix="aggregation"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
    )
    rpc.add_AggregationServicer_to_server(_Servicer(hub), server)  # type: ignore[no-untyped-call]
    credentials = grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=tls.authority.read_bytes(),
        require_client_auth=True,
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise HortusError(
            "the aggregation service cannot listen there",
            where=address,
            remedy="Is another server running? Choose another port in server.yaml.",
        ) from error
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=1.0).wait()
