"""A server with the true server's certificate that says whatever an attack wants it to say."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import grpc
import numpy as np
from attacks.world import SITES
from numpy.typing import NDArray

from hortus.parties.folders import TlsFiles
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.vectors import split, vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc

_SECONDS = 20.0
Message = TypeVar("Message", wire.Announcement, wire.Encapsulations)
Turns = Callable[[str], Sequence[wire.Go]]


def go(
    adapter: NDArray[np.float32],
    step: int = 0,
    attempt: int = 0,
    survivors: Sequence[str] = SITES,
) -> wire.Go:
    """A Go as an honest server would give it."""
    digest = vector_digest(adapter)
    return wire.Go(step=step, attempt=attempt, survivors=survivors, adapter_digest=digest)


class HostileServer(rpc.AggregationServicer):
    """Honest about keys, unless a subclass overrides it; its turns follow a script for each site.

    Args:
        turns: What a site is told, one after the other.
        adapters: What it gives out by hash; any of them, if it has none of that hash.
        cohort: Sites that it waits for.
    """

    def __init__(
        self,
        turns: Turns,
        adapters: Sequence[NDArray[np.float32]],
        cohort: Sequence[str] = SITES,
    ) -> None:
        self.cohort = cohort
        self.adapters = {vector_digest(adapter): adapter for adapter in adapters}
        self.announced: dict[str, wire.Announcement] = {}
        self.sealed: dict[str, wire.Encapsulations] = {}
        self.uploads: dict[tuple[str, int, int], NDArray[np.uint32]] = {}
        self.refusals: dict[str, str] = {}
        self._turns = {site: iter(turns(site)) for site in SITES}
        self._changed = threading.Condition()

    # What an attack overrides.

    def announcements(self, site: str) -> list[wire.Announcement]:
        """Everybody's announcements, as one site is shown them."""
        return [self.announced[name] for name in self.cohort]

    def encapsulations(self, site: str) -> list[wire.Encapsulation]:
        """What one site is told that the others have said to it."""
        said = [one for name in self.cohort for one in self.sealed[name].encapsulations]
        return [one for one in said if one.receiver == site]

    def chunks(self, site: str, digest: str) -> Iterator[wire.Chunk]:
        """The adapter, as one site is sent it."""
        return split(self.adapters.get(digest, next(iter(self.adapters.values()))))

    def uploading(self, site: str) -> None:
        """Looks at a site that begins to upload."""

    def finished(self, site: str) -> wire.Turn:
        """What a site is told at the end of the script."""
        return wire.Turn(finished=wire.Finished(reason="done"))

    # The interface.

    def Announce(
        self, request: wire.Announcement, context: grpc.ServicerContext
    ) -> wire.Announcements:
        site = caller(context)
        self._gather(self.announced, site, request, context)
        return wire.Announcements(protocol=PROTOCOL_VERSION, announcements=self.announcements(site))

    def Encapsulate(
        self, request: wire.Encapsulations, context: grpc.ServicerContext
    ) -> wire.Encapsulations:
        site = caller(context)
        self._gather(self.sealed, site, request, context)
        return wire.Encapsulations(
            session=request.session, encapsulations=self.encapsulations(site)
        )

    def Ready(self, request: wire.ReadyRequest, context: grpc.ServicerContext) -> wire.Turn:
        site = caller(context)
        if request.refusal:
            with self._changed:
                self.refusals[site] = request.refusal
                self._changed.notify_all()
            return wire.Turn(finished=wire.Finished(reason="noted"))
        turn = next(self._turns[site], None)
        return self.finished(site) if turn is None else wire.Turn(go=turn)

    def Adapter(
        self, request: wire.AdapterRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.Chunk]:
        yield from self.chunks(caller(context), request.digest)

    def Upload(
        self, parts: Iterator[wire.UploadPart], context: grpc.ServicerContext
    ) -> wire.Receipt:
        header = next(parts).header
        self.uploading(caller(context))
        words = b"".join(part.chunk.words for part in parts)
        key = (caller(context), header.step, header.attempt)
        assert key not in self.uploads, "a site sent twice for one attempt"
        self.uploads[key] = np.frombuffer(words, "<u4").astype(np.uint32)
        return wire.Receipt()

    def total(
        self, step: int = 0, attempt: int = 0, sites: Sequence[str] | None = None
    ) -> NDArray[np.uint32]:
        """The sum of the uploads that it holds."""
        kept = [
            words
            for (site, *when), words in self.uploads.items()
            if when == [step, attempt] and site in (sites or SITES)
        ]
        return np.sum(kept, axis=0, dtype=np.uint32)

    def _gather(
        self, into: dict[str, Message], site: str, message: Message, context: grpc.ServicerContext
    ) -> None:
        """Waits for the cohort, or for somebody to leave."""
        with self._changed:
            into[site] = message
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: set(into) >= set(self.cohort) or bool(self.refusals), _SECONDS
            )
            if not set(into) >= set(self.cohort):
                context.abort(grpc.StatusCode.ABORTED, "somebody left")


def caller(context: grpc.ServicerContext) -> str:
    """The name in the caller's certificate."""
    return context.auth_context()["x509_common_name"][0].decode()


@contextmanager
def serving_hostile(servicer: rpc.AggregationServicer, tls: TlsFiles) -> Iterator[int]:
    """Serves on loopback with mutual TLS, with no limit on what is sent; yields the port."""
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_send_message_length", -1)])
    rpc.add_AggregationServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=tls.authority.read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None)
