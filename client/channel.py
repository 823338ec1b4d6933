"""A site's gRPC connection to the aggregation service, with mutual TLS; the site dials out."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from hortus.protocol.consortium import TlsFiles
from hortus.protocol.errors import ProtocolError
from hortus.protocol.transport import MAX_MESSAGE_BYTES
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc

CONNECT_SECONDS = 30.0


class GrpcChannel:
    """An `AggregationChannel` over gRPC."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.AggregationStub(channel)  # type: ignore[no-untyped-call]

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        """See `AggregationChannel`."""
        with _explained():
            reply: wire.Announcements = self._stub.Announce(request)
            return reply

    def encapsulate(self, request: wire.Encapsulations) -> wire.EncapsulationsOfAll:
        """See `AggregationChannel`."""
        with _explained():
            reply: wire.EncapsulationsOfAll = self._stub.Encapsulate(request)
            return reply

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        """See `AggregationChannel`."""
        with _explained():
            reply: wire.Turn = self._stub.Ready(request)
            return reply

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """See `AggregationChannel`."""
        with _explained():
            yield from self._stub.Adapter(request)

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """See `AggregationChannel`."""
        with _explained():
            receipt: wire.Receipt = self._stub.Upload(parts)
            return receipt


@contextmanager
def dialling(address: str, tls: TlsFiles) -> Iterator[GrpcChannel]:
    """Connects to the aggregation service; the authority in `tls` alone vouches for the server.

    Raises:
        ProtocolError: Nobody answers there, or with a certificate of another authority.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.authority.read_bytes(),
        private_key=tls.key.read_bytes(),
        certificate_chain=tls.certificate.read_bytes(),
    )
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise ProtocolError(
                "the aggregation service cannot be reached, or shows a foreign certificate",
                where=address,
                remedy="Check `aggregation` in site.yaml, tls/ca.crt and the firewall (sites dial out).",
            ) from error
        yield GrpcChannel(channel)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code, details = (
            (error.code(), error.details()) if isinstance(error, grpc.Call) else ("", "")
        )
        raise ProtocolError(f"the aggregation service answered {code}: {details}") from error
