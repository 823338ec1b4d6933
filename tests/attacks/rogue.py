"""A site with its true certificate and identity that does what an attack wants it to do."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from attacks.world import SESSION, SITES, World
from helpers.keys import exchange_keys
from numpy.typing import NDArray

from hortus.parties.folders import TlsFiles
from hortus.privacy.secure_sum.masks import MaskedVector, MaskGenerator, StepView
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.vectors import split
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc

_SECONDS = 30.0


@contextmanager
def bare_stub(port: int, tls: TlsFiles, *, shows_certificate: bool = True) -> Iterator[Any]:
    """A client of the aggregation service without any of our own code between."""
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(),
        tls.key.read_bytes() if shows_certificate else None,
        tls.certificate.read_bytes() if shows_certificate else None,
    )
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        yield rpc.AggregationStub(channel)


class Rogue:
    """One site's keys in the hands of an attacker, who can go by the book up to any point.

    Args:
        world: Whose site.
        site: Which.
    """

    def __init__(self, world: World, site: str = SITES[-1]) -> None:
        self.world = world
        self.site = site
        self.stub: Any = None
        self.masks: MaskGenerator | None = None
        self._files = world.consortium.site(site)

    @contextmanager
    def connected(self, port: int) -> Iterator[Any]:
        """Dials with its own certificate."""
        with bare_stub(port, self._files.tls) as self.stub:
            yield self.stub

    @contextmanager
    def joined(
        self,
        port: int,
        tamper: Callable[[Any], Any] = lambda message: message,
    ) -> Iterator[Any]:
        """Exchanges keys by the book, but for what `tamper` does to the messages."""
        with self.connected(port) as stub:
            identity = Identity.load(self._files.identity, self.site)
            roster = Roster.load(self._files.roster)
            self.masks = exchange_keys(
                identity,
                roster,
                self.world.descriptor(),
                lambda message: stub.Announce(tamper(message), timeout=_SECONDS),
                lambda message: stub.Encapsulate(tamper(message), timeout=_SECONDS),
            )
            yield stub

    def ready(self, refusal: str = "") -> wire.Turn:
        """Waits for its turn."""
        turn: wire.Turn = self.stub.Ready(
            wire.ReadyRequest(session=SESSION, refusal=refusal), timeout=_SECONDS
        )
        return turn

    def masked_zeros(self, view: StepView) -> NDArray[np.uint32]:
        """A vector of zeros under this site's masks."""
        assert self.masks is not None
        zeros = np.zeros(self.world.workbench.space.dimension, np.int64)
        return _whole(self.masks.mask(zeros, view))

    def upload(
        self, vector: NDArray[np.uint32], view: StepView, session: str = SESSION
    ) -> wire.Receipt:
        """Sends a vector for a step."""
        return self.send(self.parts(split(vector), view.step, view.attempt, session))

    def send(self, parts: Iterable[wire.UploadPart]) -> wire.Receipt:
        """Sends a stream as it is."""
        receipt: wire.Receipt = self.stub.Upload(iter(parts), timeout=_SECONDS)
        return receipt

    @staticmethod
    def parts(
        chunks: Iterable[wire.Chunk], step: int = 0, attempt: int = 0, session: str = SESSION
    ) -> Iterator[wire.UploadPart]:
        """A header and chunks."""
        yield wire.UploadPart(header=wire.UploadHeader(session=session, step=step, attempt=attempt))
        for chunk in chunks:
            yield wire.UploadPart(chunk=chunk)

    def mask_with(self, peer: str, view: StepView) -> NDArray[np.uint32]:
        """The mask that this site shares with a peer, signed as it is in the peer's upload."""
        assert self.masks is not None
        zeros = np.zeros(self.world.workbench.space.dimension, np.int64)
        seeds = dict(self.masks._seeds(view))
        return _whole(MaskedVector(zeros, [(seeds[peer], peer < self.site)]))


def _whole(masked: MaskedVector) -> NDArray[np.uint32]:
    return np.frombuffer(b"".join(masked.chunks()), "<u4").astype(np.uint32)


def refusal_of(error: grpc.RpcError) -> str:
    """A status as one line: its code and its details."""
    return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
