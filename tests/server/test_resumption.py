"""Uploads and downloads over real gRPC whose connection is cut in the middle, again and again."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import numpy as np
import pytest
from helpers.keys import exchange_keys
from numpy.typing import NDArray

from hortus.client.channel import GrpcChannel, dialling
from hortus.client.states import ClientState, ClientStates
from hortus.client.transfer import MAX_RESUMPTIONS, download, upload
from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.privacy.secure_sum.masks import MaskedVector
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.plan import Cohort
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ConnectionLost
from hortus.server.sums.aggregator import Aggregator, StepSum
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving

SITES = ("ash", "birch")
SESSION = "5" * 32
DIMENSION = 6 * CHUNK_WORDS + 11
ADAPTER = np.random.default_rng(0).standard_normal(DIMENSION).astype(np.float32)
DESCRIPTOR = Descriptor(
    run="1" * 32,
    session=SESSION,
    contract="2" * 64,
    cohort=SITES,
    first_round=0,
    dimension=DIMENSION,
    scale=1024,
)
RULES = Cohort(minimum=2, join_deadline=30, step_deadline=60)


class CuttingProxy:
    """Passes bytes on; cuts each connection after so many, until it has cut often enough."""

    def __init__(self, target: int, limit: int, cuts: int) -> None:
        self._target = target
        self._limit = limit
        self.cuts_left = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                budget = [self._limit]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, budget), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                budget[0] -= len(data)
                if budget[0] < 0 and self.cuts_left > 0:
                    self.cuts_left -= 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    directory = tmp_path_factory.mktemp("cut")
    policy = Policy(budget=Budget(epsilon=1, delta=1e-5), min_cohort=2, min_honest=1)
    addresses = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    data = {site: directory / f"{site}.csv" for site in SITES}
    for path in data.values():
        path.write_text("text,label\n")
    policies = dict.fromkeys(SITES, policy)
    return create_consortium(directory / "all", data, policies, addresses, datetime.now(UTC))


@contextmanager
def session(consortium: Consortium) -> Iterator[tuple[Aggregator, int]]:
    hub = Hub(Notary.open(consortium.server, lambda: 1.8e9))
    one = Aggregator(DESCRIPTOR, RULES, Roster.load(consortium.server.roster))
    hub.open(one)
    with serving(hub, consortium.server.tls, "127.0.0.1:0", len(SITES)) as port:
        yield one, port


def join(consortium: Consortium, channel: GrpcChannel, site: str) -> wire.Go:
    """Goes as far as Go."""
    files = consortium.site(site)
    identity, roster = Identity.load(files.identity, site), Roster.load(files.roster)
    exchange_keys(identity, roster, DESCRIPTOR, channel.announce, channel.encapsulate)
    return channel.ready(wire.ReadyRequest(session=SESSION)).go


def values(site: str) -> NDArray[np.int64]:
    return np.arange(DIMENSION, dtype=np.int64) * (1 + SITES.index(site))


def masked(site: str) -> MaskedVector:
    """The two sites' masks cancel."""
    return MaskedVector(values(site), [(bytes(32), site == SITES[0])])


def send(consortium: Consortium, site: str, port: int) -> ClientStates:
    states = ClientStates()
    before = (ClientState.ANNOUNCED, ClientState.KEYED, ClientState.READY, ClientState.CALLED)
    for state in (*before, ClientState.CHARGED):
        states.enter(state)
    with dialling(f"127.0.0.1:{port}", consortium.site(site).tls, RULES) as channel:
        go = join(consortium, channel, site)
        adapter = download(channel, SESSION, go.adapter_digest, DIMENSION)
        assert np.array_equal(adapter, ADAPTER)
        header = wire.UploadHeader(session=SESSION, step=go.step, attempt=go.attempt)
        upload(channel, header, masked(site), states)
        states.enter(ClientState.DELIVERED)
    return states


def test_transfers_cut_in_the_middle_go_on_and_count_once(consortium: Consortium) -> None:
    """Each connection of ash carries little more than a chunk: cuts in the download and the upload."""
    with session(consortium) as (server, port), ThreadPoolExecutor(3) as pool:
        proxy = CuttingProxy(port, 5 * CHUNK_WORDS, cuts=10)

        def run() -> StepSum:
            server.exchange_keys()
            return server.sum(0, ADAPTER)

        result = pool.submit(run)
        sent = [pool.submit(send, consortium, "ash", proxy.port)]
        sent.append(pool.submit(send, consortium, "birch", port))
        for one in sent:
            one.result(timeout=60)
        summed = result.result(timeout=60)
        proxy.close()
    expected = (values("ash") + values("birch")).astype(np.uint32)
    assert proxy.cuts_left == 0
    assert (summed.sites, summed.attempts) == (SITES, 1)
    assert np.array_equal(summed.total, expected)


def test_a_connection_that_always_breaks_is_given_up() -> None:
    class Broken:
        asked = 0

        def progress(self, request: wire.UploadHeader) -> wire.UploadProgress:
            self.asked += 1
            return wire.UploadProgress(next_sequence=1)

        def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
            raise ConnectionLost("cut")

    channel, states = Broken(), ClientStates()
    before = (ClientState.ANNOUNCED, ClientState.KEYED, ClientState.READY, ClientState.CALLED)
    for state in (*before, ClientState.CHARGED):
        states.enter(state)
    with pytest.raises(ConnectionLost):
        upload(channel, wire.UploadHeader(), masked("ash"), states)  # type: ignore[arg-type]
    assert channel.asked == MAX_RESUMPTIONS
