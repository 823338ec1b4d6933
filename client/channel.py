"""A site's gRPC connection to the aggregation service, with mutual TLS; the site dials out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hortus.parties.folders import TlsFiles, host_and_port
from hortus.protocol.plan import Cohort
from hortus.protocol.transport import connection_options
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc
from hortus.runtime.errors import ConnectionLost, ProtocolError
from hortus.runtime.faults import Fault, reach
from hortus.runtime.proxies import Proxy, proxy_for

CONNECT_SECONDS = 30.0
_FAREWELL_SECONDS = 10.0
# What gRPC calls a call whose connection went away under it; our own refusals have other codes.
_BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


class GrpcChannel:
    """An `AggregationChannel` over gRPC, on which no call waits for ever.

    Args:
        channel: To the aggregation service.
        rules: The plan's deadlines, which bound what an honest server may take.
    """

    def __init__(self, channel: grpc.Channel, rules: Cohort) -> None:
        self._stub = rpc.AggregationStub(channel)  # type: ignore[no-untyped-call]
        # The others may come as late as the deadline, and the session has been open for a while.
        self._join = 2 * rules.join_deadline
        self._transfer = rules.step_deadline
        # Between two turns lie the others' uploads, their next Ready, and an evaluation.
        self._turn = rules.join_deadline + 3 * rules.step_deadline
        # Nobody waits for what comes back.
        self._farewell = min(_FAREWELL_SECONDS, rules.join_deadline, rules.step_deadline)

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        """See `AggregationChannel`."""
        with _explained(self._join):
            reach(Fault.SITE_BEFORE_ANNOUNCE)
            reply: wire.Announcements = self._stub.Announce(request, timeout=self._join)
            reach(Fault.SITE_AFTER_ANNOUNCE)
            return reply

    def encapsulate(self, request: wire.Encapsulations) -> wire.Encapsulations:
        """See `AggregationChannel`."""
        with _explained(self._join):
            reach(Fault.SITE_BEFORE_ENCAPSULATE)
            reply: wire.Encapsulations = self._stub.Encapsulate(request, timeout=self._join)
            reach(Fault.SITE_AFTER_ENCAPSULATE)
            return reply

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        """See `AggregationChannel`."""
        seconds = self._farewell if request.refusal else self._turn
        with _explained(seconds):
            reach(Fault.SITE_BEFORE_READY)
            reply: wire.Turn = self._stub.Ready(request, timeout=seconds)
            reach(Fault.SITE_AFTER_READY)
            return reply

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """See `AggregationChannel`."""
        with _explained(self._transfer):
            reach(Fault.SITE_BEFORE_ADAPTER)
            call = self._stub.Adapter(request, timeout=self._transfer, wait_for_ready=True)
            try:
                yield from call
                reach(Fault.SITE_AFTER_ADAPTER)
            finally:
                call.cancel()

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """See `AggregationChannel`."""
        with _explained(self._transfer):
            reach(Fault.SITE_BEFORE_UPLOAD)
            receipt: wire.Receipt = self._stub.Upload(_reaching(parts), timeout=self._transfer)
            reach(Fault.SITE_AFTER_UPLOAD)
            return receipt

    def progress(self, request: wire.UploadHeader) -> wire.UploadProgress:
        """See `AggregationChannel`."""
        with _explained(self._transfer):
            reply: wire.UploadProgress = self._stub.Progress(
                request, timeout=self._transfer, wait_for_ready=True
            )
            return reply


def _reaching(parts: Iterator[wire.UploadPart]) -> Iterator[wire.UploadPart]:
    for part in parts:
        yield part
        reach(Fault.SITE_WITHIN_UPLOAD)


@contextmanager
def dialling(address: str, tls: TlsFiles, rules: Cohort) -> Iterator[GrpcChannel]:
    """Connects to the aggregation service; the authority in `tls` alone vouches for the server.

    Args:
        address: Host and port.
        tls: This site's certificate, and the authority.
        rules: The plan's deadlines.

    Raises:
        ProtocolError: Nobody answers there, or with a certificate of another authority.
        UsageError: The environment names a proxy that is not one.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.authority.read_bytes(),
        private_key=tls.key.read_bytes(),
        certificate_chain=tls.certificate.read_bytes(),
    )
    host, _ = host_and_port(address)
    proxy = proxy_for(host, os.environ)
    way = ("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy.url)
    options = [*connection_options(), way]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        try:
            patience = min(CONNECT_SECONDS, rules.join_deadline)
            grpc.channel_ready_future(channel).result(timeout=patience)
        except grpc.FutureTimeoutError as error:
            raise ProtocolError(
                "the aggregation service cannot be reached, or its certificate is not the consortium's",
                where=address,
                remedy="Check `aggregation` in server.card.yaml, tls/ca.crt and the firewall (sites dial "
                f"out).{_of_proxy(proxy)}",
            ) from error
        yield GrpcChannel(channel, rules)


def _of_proxy(proxy: Proxy | None) -> str:
    if proxy is None:
        return ""
    return f" {proxy.variable} names a proxy: it must allow CONNECT to this address, or no_proxy must name the address."


@contextmanager
def _explained(seconds: float) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code, details = (
            (error.code(), error.details()) if isinstance(error, grpc.Call) else (None, "")
        )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise ProtocolError(
                f"the aggregation service did not answer within {seconds:g} s"
            ) from error
        if code in _BROKEN:
            raise ConnectionLost(f"the connection was lost: {code}: {details}") from error
        raise ProtocolError(f"the aggregation service answered {code}: {details}") from error
    except ValueError as error:  # what gRPC says of a channel that was closed here
        raise ProtocolError("this site has hung up") from error
