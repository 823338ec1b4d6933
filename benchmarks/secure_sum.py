"""The secure sum's speed and size, as ratios measured side by side in one process.

    python benchmarks/secure_sum.py [masks] [addition] [round] [wire] [flower]

Each ratio comes from medians of runs that take turns (of masks: from the best), so that a busy machine
disturbs both sides alike. Results go to benchmarks/results/secure_sum.csv: a row for each measure, replaced when it is
measured again.
"""

import csv
import multiprocessing
import os
import platform
import secrets
import socket
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from provenance import measured_commit
from secaggplus import FlowerRound

from hortus.client.channel import GrpcChannel, dialling
from hortus.client.states import ClientState, ClientStates
from hortus.client.transfer import download, upload
from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.privacy.secure_sum.key_exchange import Announcement, Encapsulation, KeyExchange
from hortus.privacy.secure_sum.masks import MaskedVector, MaskGenerator, StepView
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import CHUNK_WORDS, PROTOCOL_VERSION
from hortus.protocol.plan import Cohort
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.vectors import chunk_slice, split
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.attempt import Attempt
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving

RESULTS = Path(__file__).parent / "results" / "secure_sum.csv"
COLUMNS = ("measure", "value", "bar", "note", "command", "commit", "machine")
RULES = Cohort(minimum=2, join_deadline=600, step_deadline=600)
CLIENTS, PARAMETERS = 10, 1_000_000
TRAINING_SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    measure: str
    value: float
    bar: str = ""
    note: str = ""


def interleaved(
    runs: int,
    *sides: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    summary: Callable[[list[float]], float] = statistics.median,
) -> list[float]:
    """Seconds of each side; the sides take turns."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(runs + 1):
        for side, own in zip(sides, seconds, strict=True):
            started = clock()
            side()
            own.append(clock() - started)
    return [summary(own[1:]) for own in seconds]


# Masks.


def cipher_alone(keystreams: int, words: int, threads: int) -> None:
    """AES-256-CTR as fast as `cryptography` makes it: `update_into`, one buffer that stays in the cache.

    As many bytes of keystream as masking takes, in as many threads and blocks of the same size; nothing is
    read but zeros, and nothing added.
    """

    def work(share: int) -> None:
        zeros, out = bytes(2**18), bytearray(2**18)
        encryptor = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor()
        for _ in range(share * 4 * words // 2**18):
            encryptor.update_into(zeros, out)

    if threads == 1:
        work(keystreams)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [keystreams // threads] * threads))


def mask(vector: np.ndarray, peers: int) -> None:
    masked = MaskedVector(vector, [(secrets.token_bytes(32), True)] * peers)
    deque(map(len, masked.chunks()), maxlen=0)  # each chunk is let go of, as an upload does


def masks() -> Iterator[Row]:
    words, peers = 16 * CHUNK_WORDS, 8
    vector = np.ones(words, np.uint32)
    gigabytes = 4 * words * peers / 1e9
    # One thread is timed by the processor's clock, which other programs do not move; but they take the
    # cache, so the best of both sides counts, the least disturbed.
    clocks = {1: time.process_time, os.cpu_count() or 1: time.perf_counter}
    for threads, clock in clocks.items():
        with patch("hortus.privacy.secure_sum.masks.processors", return_value=threads):
            raw, masked = interleaved(
                15,
                lambda t=threads: cipher_alone(peers, words, t),
                lambda: mask(vector, peers),
                clock=clock,
                summary=min,
            )
        yield Row(
            f"masks: generated and added / raw AES-256-CTR, threads: {threads}",
            raw / masked,
            ">= 0.70",
            f"{gigabytes / masked:.2f} of {gigabytes / raw:.2f} GB/s of keystream",
        )
    few, many = interleaved(
        9,
        lambda: mask(vector, 4),
        lambda: mask(vector, 32),
        clock=time.process_time,
        summary=min,
    )
    yield Row("masks: seconds a peer, 32 peers / 4 peers", (many / 32) / (few / 4), "about 1")


# Addition.


def addition() -> Iterator[Row]:
    words = 64 * CHUNK_WORDS
    vector = np.ones(words, np.uint32)
    total = np.zeros(words, np.uint32)
    raw = [chunk.SerializeToString() for chunk in split(vector)]
    chunks = [wire.Chunk.FromString(one) for one in raw]
    attempt = Attempt(0, 0, [f"s{number}" for number in range(64)], words)
    names = iter(attempt.sites)

    def whole() -> None:
        np.add(total, vector, out=total)

    def parsed() -> None:
        site = next(names)
        stream, _ = attempt.open_stream(site)
        for chunk in chunks:
            attempt.add(site, stream, chunk)

    def from_bytes() -> None:
        site = next(names)
        stream, _ = attempt.open_stream(site)
        for one in raw:
            attempt.add(site, stream, wire.Chunk.FromString(one))

    numpy, added, parsed_and_added = interleaved(9, whole, parsed, from_bytes)
    size = 4 * words / 1e9
    yield Row(
        "addition: chunks checked and added / numpy uint32 add",
        numpy / added,
        ">= 0.50",
        f"{size / added:.2f} of {size / numpy:.2f} GB/s of uploads",
    )
    yield Row("addition: the same with protobuf's parsing", numpy / parsed_and_added)


# A round over gRPC.


class Plain(MaskedVector):
    """A vector that goes as it is."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def chunks(self, first: int = 0) -> Iterator[bytes]:
        length = len(self._values)
        for sequence in range(first, self.chunk_count):
            yield self._values[chunk_slice(sequence, length)].tobytes()


class Site:
    """One client: real keys and masks, or none."""

    def __init__(self, name: str, identity: Identity, channel: GrpcChannel, dimension: int) -> None:
        self.name = name
        self._identity = identity
        self._channel = channel
        self._masks: MaskGenerator | None = None
        self._vector = np.ones(dimension, np.uint32)

    def join(self, descriptor: Descriptor, roster: Roster) -> None:
        exchange = KeyExchange.announce(
            self._identity, roster, descriptor.cohort, descriptor.digest()
        )
        own = exchange.announcement
        everybody = self._channel.announce(
            wire.Announcement(
                protocol=PROTOCOL_VERSION,
                session=descriptor.session,
                site=self.name,
                x25519=own.x25519,
                mlkem=own.mlkem,
                signature=own.signature,
            )
        )
        sent = exchange.encapsulate(
            [Announcement(a.site, a.x25519, a.mlkem, a.signature) for a in everybody.announcements]
        )
        said = [wire.Encapsulation(**asdict(one)) for one in sent]
        heard = self._channel.encapsulate(
            wire.Encapsulations(session=descriptor.session, encapsulations=said)
        )
        self._masks = exchange.agree(
            [
                Encapsulation(e.sender, e.receiver, e.ciphertext, e.signature)
                for e in heard.encapsulations
            ],
            min_cohort=2,
        )

    def take_part(
        self, descriptor: Descriptor, roster: Roster, train: Callable[[], None], *, secure: bool
    ) -> None:
        self.join(descriptor, roster)
        while self.step(descriptor, train, secure=secure):
            pass

    def step(self, descriptor: Descriptor, train: Callable[[], None], *, secure: bool) -> bool:
        """Ready, download, training, upload; whether there was a step."""
        turn = self._channel.ready(wire.ReadyRequest(session=descriptor.session))
        if turn.WhichOneof("kind") != "go":
            return False
        go = turn.go
        download(self._channel, descriptor.session, go.adapter_digest, descriptor.dimension)
        train()
        digest = bytes.fromhex(go.adapter_digest)
        view = StepView(go.step, go.attempt, tuple(go.survivors), digest)
        # The plain vector: the same bits over the same service, masked with nothing.
        assert self._masks is not None
        masked = self._masks.mask(self._vector, view) if secure else Plain(self._vector)
        header = wire.UploadHeader(session=descriptor.session, step=go.step, attempt=go.attempt)
        states = ClientStates()
        for state in list(ClientState)[1:6]:
            states.enter(state)
        upload(self._channel, header, masked, states)
        return True


class Loopback:
    """So many sites and a server in this process, over mutual TLS on loopback."""

    def __init__(self, stack: ExitStack, clients: int) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.names = tuple(f"site-{number:03}" for number in range(clients))
        data = directory / "records.csv"
        data.write_text("text,label\n")
        policy = Policy(budget=Budget(epsilon=1, delta=1e-5), min_cohort=2, min_honest=1)
        addresses = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
        self.consortium: Consortium = create_consortium(
            directory / "consortium",
            dict.fromkeys(self.names, data),
            dict.fromkeys(self.names, policy),
            addresses,
            datetime.now(UTC),
        )
        files = {name: self.consortium.site(name) for name in self.names}
        self.identities = {n: Identity.load(f.identity, n) for n, f in files.items()}
        self.roster = Roster.load(files[self.names[0]].roster)
        self.hub = Hub(Notary.open(self.consortium.server, time.time))
        self.port = stack.enter_context(
            serving(self.hub, self.consortium.server.tls, "127.0.0.1:0", clients)
        )
        self.pool = stack.enter_context(ThreadPoolExecutor(clients + 1))
        self._stack = stack

    def channel(self, name: str, port: int | None = None) -> GrpcChannel:
        tls = self.consortium.site(name).tls
        return self._stack.enter_context(dialling(f"127.0.0.1:{port or self.port}", tls, RULES))

    def descriptor(self, dimension: int) -> Descriptor:
        return Descriptor(
            run=secrets.token_hex(16),
            session=secrets.token_hex(16),
            contract="0" * 64,
            cohort=self.names,
            first_round=0,
            dimension=dimension,
            scale=1,
        )

    def session(
        self,
        channels: dict[str, GrpcChannel],
        dimension: int,
        steps: int,
        train: Callable[[], None],
        *,
        secure: bool,
    ) -> tuple[float, list[float]]:
        """Runs a session; returns the seconds of its key exchange, and of each step."""
        descriptor = self.descriptor(dimension)

        def take_part(name: str) -> None:
            site = Site(name, self.identities[name], channels[name], dimension)
            site.take_part(descriptor, self.roster, train, secure=secure)

        return self.lead(descriptor, steps, take_part)

    def lead(
        self, descriptor: Descriptor, steps: int, take_part: Callable[[str], None]
    ) -> tuple[float, list[float]]:
        """The server's side of a session, each site's `take_part` on a thread."""
        server = Aggregator(descriptor, RULES, self.roster)
        self.hub.open(server)
        players = [self.pool.submit(take_part, name) for name in self.names]
        started = time.perf_counter()
        server.exchange_keys()
        keys = time.perf_counter() - started
        adapter, seconds = np.zeros(descriptor.dimension, np.float32), []
        for step in range(steps):
            started = time.perf_counter()
            result = server.sum(step, adapter)
            seconds.append(time.perf_counter() - started)
            assert (result.total == len(self.names)).all()
            adapter = adapter + 1
        server.close("done")
        for player in players:
            player.result()
        return keys, seconds


def no_training() -> None:
    pass


def elsewhere() -> None:
    """Training on a machine of the site's own."""
    time.sleep(TRAINING_SECONDS)


def here() -> None:
    """Training on this machine, beside the other sites': so much time of a core."""
    until = time.thread_time() + TRAINING_SECONDS
    numbers = np.linspace(0, 1, 50_000)
    while time.thread_time() < until:
        np.sin(numbers)


def site_process(
    name: str, consortium: Path, port: int, train: Callable[[], None], asked: Connection
) -> None:
    """A site in a process of its own, as sites are: what one does holds no other's Python up."""
    files = Consortium(consortium).site(name)
    identity, roster = Identity.load(files.identity, name), Roster.load(files.roster)
    with dialling(f"127.0.0.1:{port}", files.tls, RULES) as channel:
        asked.send(None)
        while (told := asked.recv()) is not None:
            descriptor = Descriptor.model_validate_json(told[0])
            site = Site(name, identity, channel, descriptor.dimension)
            begun = time.process_time()
            site.take_part(descriptor, roster, train, secure=told[1])
            asked.send(time.process_time() - begun)


@contextmanager
def site_processes(cohort: Loopback, train: Callable[[], None]) -> Iterator[dict[str, Connection]]:
    """Starts every site's process; yields a pipe to each."""
    spawning = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in cohort.names:
        pipes[name], end = spawning.Pipe()
        arguments = (name, cohort.consortium.directory, cohort.port, train, end)
        processes.append(spawning.Process(target=site_process, args=arguments))
        processes[-1].start()
    for pipe in pipes.values():
        pipe.recv()
    yield pipes
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()


@dataclass(frozen=True)
class Rounds:
    """Medians of secure and plain rounds: seconds, and a site's processor seconds."""

    secure: float
    plain: float
    secure_processor: float
    plain_processor: float
    keys: float


def compared_rounds(train: Callable[[], None], turns: int, steps: int) -> Rounds:
    taken: dict[bool, list[float]] = {True: [], False: []}
    processor: dict[bool, list[float]] = {True: [], False: []}
    keys: list[float] = []
    with ExitStack() as stack:
        cohort = Loopback(stack, CLIENTS)
        pipes = stack.enter_context(site_processes(cohort, train))
        for turn in range(turns):
            for secure in (True, False) if turn % 2 else (False, True):
                descriptor = cohort.descriptor(PARAMETERS)
                told = (descriptor.model_dump_json(), secure)

                def take_part(name: str, told: tuple[str, bool] = told) -> None:
                    pipes[name].send(told)
                    processor[told[1]].append(pipes[name].recv() / steps)

                exchanged, seconds = cohort.lead(descriptor, steps, take_part)
                taken[secure] += seconds[1:] if steps > 1 else seconds
                keys.append(exchanged)
    sides = (taken[True], taken[False], processor[True], processor[False], keys)
    return Rounds(*map(statistics.median, sides))


def round_() -> Iterator[Row]:
    name = "round: secure / plain float32, 10 clients x 1 M parameters, 1 s of training"
    rounds = compared_rounds(elsewhere, 6, 3)
    yield Row(
        f"{name} each elsewhere",
        rounds.secure / rounds.plain,
        "<= 1.05",
        f"{rounds.secure:.2f} and {rounds.plain:.2f} s; all ten clients mask on this machine's cores",
    )
    yield Row(
        "round: a site's processor seconds for masks / a plain round",
        (rounds.secure_processor - rounds.plain_processor) / rounds.plain,
        "",
        f"{1000 * rounds.secure_processor:.0f} and {1000 * rounds.plain_processor:.0f} ms: "
        "so much longer takes a site on a machine of its own, if that has one core",
    )
    yield Row(
        "round: key exchange of the session, seconds", rounds.keys, "", "once for all its steps"
    )
    rounds = compared_rounds(here, 4, 1)
    yield Row(
        f"{name} each here",
        rounds.secure / rounds.plain,
        "<= 1.05",
        f"{rounds.secure:.2f} and {rounds.plain:.2f} s",
    )


# Bytes on the wire.


class CountingProxy:
    """Passes bytes between sites and the server, and counts them."""

    def __init__(self, target: int) -> None:
        self.up = self.down = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, is_up in ((near, far, True), (far, near, False)):
                    threading.Thread(
                        target=self._pump, args=(source, sink, is_up), daemon=True
                    ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(2**18):
                if is_up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def wire_() -> Iterator[Row]:
    with ExitStack() as stack:
        cohort = Loopback(stack, CLIENTS)
        watched = cohort.names[0]
        proxy = CountingProxy(cohort.port)
        stack.callback(proxy.close)
        counts = []
        for steps in (1, 3):
            channels = {
                name: cohort.channel(name, proxy.port if name == watched else None)
                for name in cohort.names
            }
            before = proxy.up, proxy.down
            cohort.session(channels, PARAMETERS, steps, no_training, secure=True)
            time.sleep(0.5)
            counts.append((proxy.up - before[0], proxy.down - before[1]))
    (up_1, down_1), (up_3, down_3) = counts
    size = 4 * PARAMETERS
    yield Row("wire: bytes up a step / 4 x parameters", (up_3 - up_1) / 2 / size, "<= 1.02")
    yield Row("wire: bytes down a step / 4 x parameters", (down_3 - down_1) / 2 / size, "<= 1.02")
    yield Row(
        "wire: bytes of a site's connection and key exchange, 10 sites",
        up_1 + down_1 - (up_3 + down_3 - up_1 - down_1) / 2,
    )


# Flower's SecAgg+.


def flower() -> Iterator[Row]:
    with ExitStack() as stack:
        cohort = Loopback(stack, CLIENTS)
        channels = {name: cohort.channel(name) for name in cohort.names}
        theirs = FlowerRound(CLIENTS, PARAMETERS)
        own: list[float] = []

        def ours() -> None:
            keys, steps = cohort.session(channels, PARAMETERS, 1, no_training, secure=True)
            own.append(keys + steps[0])

        _, flower_seconds = interleaved(3, ours, theirs.run)
    hortus_seconds = statistics.median(own[1:])
    note = f"{hortus_seconds:.2f} s with TLS and keys; Flower {flower_seconds:.2f} s by plain calls"
    yield Row(
        "flower: SecAgg+ seconds / ours, 10 clients x 1 M",
        flower_seconds / hortus_seconds,
        "",
        note,
    )
    yield Row(
        "flower: SecAgg+ bytes up a client / 4 x parameters",
        theirs.bytes_up / CLIENTS / (4 * PARAMETERS),
    )


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "masks": masks,
    "addition": addition,
    "round": round_,
    "wire": wire_,
    "flower": flower,
}


@contextmanager
def kept_results() -> Iterator[dict[str, dict[str, Any]]]:
    rows = {}
    if RESULTS.exists():
        rows = {row["measure"]: row for row in csv.DictReader(RESULTS.open())}
    yield rows
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows[measure] for measure in sorted(rows))


def record(command: str, measured: Iterator[Row]) -> None:
    """Prints rows as they come, and puts them into the results in place of older ones."""
    commit = measured_commit()
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    with kept_results() as rows:
        for row in measured:
            print(f"{row.measure}: {row.value:.4g}  {row.bar}  {row.note}", flush=True)
            rows[row.measure] = {
                "measure": row.measure,
                "value": f"{row.value:.4g}",
                "bar": row.bar,
                "note": row.note,
                "command": command,
                "commit": commit,
                "machine": machine,
            }


def main() -> None:
    warnings.filterwarnings("ignore")
    for part in sys.argv[1:] or list(PARTS):
        record(f"python benchmarks/secure_sum.py {part}", PARTS[part]())


if __name__ == "__main__":
    main()
