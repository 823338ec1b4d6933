"""The aggregation service over gRPC with mutual TLS: authenticates, then calls the aggregator."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import cast

import grpc

from hortus.parties.folders import TlsFiles
from hortus.protocol.limits import checked
from hortus.protocol.transport import connection_options
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc
from hortus.runtime.errors import HortusError, ProtocolError, in_one_line
from hortus.runtime.faults import Fault, reach
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.notary import Notary

# An honest site has one call open at a time, and perhaps one that its lost connection left behind.
_CALLS_PER_SITE = 4
_SPARE_THREADS = 8


class Hub:
    """Where the federation loop puts the session that sites may join now.

    Args:
        notary: Countersigns the heads of sites' ledgers, over all sessions.
    """

    def __init__(self, notary: Notary) -> None:
        self._notary = notary
        self._current: Aggregator | None = None

    def open(self, aggregator: Aggregator) -> None:
        """Makes this the current session."""
        self._current = aggregator

    @property
    def current(self) -> Aggregator:
        """The current session.

        Raises:
            ProtocolError: No session is open.
        """
        if self._current is None:
            raise ProtocolError("no session is open")
        return self._current

    def announce(
        self, session: Aggregator, site: str, request: wire.Announcement
    ) -> wire.Announcements:
        """See `Aggregator.announce`; reminds the site of its ledger's last head."""
        return self._notary.remind(site, session.announce(site, request))

    def ready(self, session: Aggregator, site: str, request: wire.ReadyRequest) -> wire.Turn:
        """See `Aggregator.ready`; countersigns the head of the site's ledger.

        Raises:
            ProtocolError: The ledger is an older copy; the site is out of the session.
        """
        try:
            key = session.roster.key_of(site)
            countersignature = self._notary.answer(site, key, checked(request))
        except ProtocolError as error:
            session.drop(site, error.problem)
            raise
        turn = session.ready(site, request)
        if countersignature is not None:
            turn.countersignature.CopyFrom(countersignature)
        return turn


class _Servicer(rpc.AggregationServicer):
    """Translates between gRPC and the aggregator; the peer's certificate names the site."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open_calls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def Announce(
        self, request: wire.Announcement, context: grpc.ServicerContext
    ) -> wire.Announcements:
        with self._answering(context) as (site, session):
            return self._hub.announce(session, site, request)

    def Encapsulate(
        self, request: wire.Encapsulations, context: grpc.ServicerContext
    ) -> wire.Encapsulations:
        with self._answering(context) as (site, session):
            return session.encapsulate(site, request)

    def Ready(self, request: wire.ReadyRequest, context: grpc.ServicerContext) -> wire.Turn:
        with self._answering(context) as (site, session):
            answered = threading.Event()

            def ended() -> None:
                if not answered.is_set():
                    session.drop(site, "its connection was lost")

            # The farewell of an older session says nothing about this one.
            if request.session == session.descriptor.session:
                context.add_callback(ended)
            try:
                return self._hub.ready(session, site, request)
            finally:
                answered.set()

    def Adapter(
        self, request: wire.AdapterRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.Chunk]:
        with self._answering(context) as (site, session), _limited(context, session):
            yield from session.adapter(site, request)

    def Upload(
        self, request_iterator: Iterator[wire.UploadPart], context: grpc.ServicerContext
    ) -> wire.Receipt:
        with self._answering(context) as (site, session), _limited(context, session):
            return session.upload(site, request_iterator)

    def Progress(
        self, request: wire.UploadHeader, context: grpc.ServicerContext
    ) -> wire.UploadProgress:
        with self._answering(context) as (site, session):
            return session.progress(site, request)

    @contextmanager
    def _answering(self, context: grpc.ServicerContext) -> Iterator[tuple[str, Aggregator]]:
        """Yields the authenticated site and its session; turns our errors into gRPC statuses.

        A site may hold a few threads and no more, so that none can keep the others out.
        """
        # A property of the peer's certificate is a list of values, whatever the type stubs say.
        names = cast("Sequence[bytes]", context.auth_context().get("x509_common_name", ()))
        if len(names) != 1:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "a client certificate must name the site"
            )
        site = names[0].decode(errors="replace")
        with self._lock:
            self._open_calls[site] += 1
            busy = self._open_calls[site] > _CALLS_PER_SITE
        try:
            if busy:
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{site} already has {_CALLS_PER_SITE} open calls",
                )
            session = self._hub.current
            session.check_member(site)
            reach(Fault.SERVER_RECEIVED)
            yield site, session
            reach(Fault.SERVER_BEFORE_ANSWER)
        except HortusError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, in_one_line(str(error)))
        finally:
            with self._lock:
                self._open_calls[site] -= 1


@contextmanager
def _limited(context: grpc.ServicerContext, session: Aggregator) -> Iterator[None]:
    """Ends a transfer that takes longer than a step may."""
    timer = threading.Timer(session.rules.step_deadline, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def serving(hub: Hub, tls: TlsFiles, address: str, sites: int) -> Iterator[int]:
    """Serves the hub's sessions until the block is left; yields the port.

    Args:
        hub: Holds the current session.
        tls: The server's certificate, and the authority that clients' are checked against.
        address: Host and port; port 0 takes a free one.
        sites: Sites expected; each may hold a few calls open.

    Raises:
        HortusError: The address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(
            max_workers=_CALLS_PER_SITE * sites + _SPARE_THREADS, thread_name_prefix="aggregation"
        ),
        options=[
            ("grpc.so_reuseport", 0),
            *connection_options(),
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
