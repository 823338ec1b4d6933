"""Whole sessions: what sites send to a server, and what a server answers a site."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import count
from random import Random
from typing import Any, TypeVar

import numpy as np
from fuzzing.mutation import framed, frames_of, of_bytes, of_frames, of_json, of_message
from fuzzing.parser import Documented, Parser, must
from fuzzing.setting import Maker, Setting, without_defects
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from hortus.privacy.secure_sum.key_exchange import (
    KeyExchange,
    read_announcement,
    read_encapsulation,
)
from hortus.protocol.vectors import split, vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ConnectionLost, HortusError, Refused
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.attempt import Attempt
from hortus.server.sums.states import Phase, SiteState

COHORT = ("ash", "birch", "cedar")
_SESSION = "2" * 32
_ANNOUNCE, _ENCAPSULATE, _READY, _ADAPTER, _UPLOAD, _PROGRESS, _KEYS, _GO, _SETTLE = range(9)
_KIND = {
    _ANNOUNCE: wire.Announcement,
    _ENCAPSULATE: wire.Encapsulations,
    _READY: wire.ReadyRequest,
    _ADAPTER: wire.AdapterRequest,
    _PROGRESS: wire.UploadHeader,
}
_Sent = TypeVar("_Sent", bound=Message)


class _Impatient(threading.Condition):
    """Waits for nothing: one thread plays all parties."""

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        del timeout
        return predicate()


class _Played:
    """A session at the server, played message by message.

    A frame is a message: a byte for who sends it, one for which it is, and the message.
    """

    def __init__(self, session: Aggregator, adapter: NDArray[np.float32]) -> None:
        session._changed = _Impatient()
        session._adapter, session._adapter_digest = adapter, vector_digest(adapter)
        self._session, self._machine = session, session._machine
        self._steps = 0
        self.sums = 0
        self._added: dict[str, NDArray[np.uint32]] = {}

    def play(self, frame: bytes) -> None:
        sender, verb = (*COHORT, "nobody")[frame[0] % 4], frame[1] % 9
        content, session = frame[2:], self._session
        match verb:
            case 4:
                self._upload(sender, content)
            case 6:
                if self._machine.phase is Phase.JOINING:
                    session.exchange_keys()
            case 7:
                self._go()
            case 8:
                self._settle()
            case _:
                name = ("announce", "encapsulate", "ready", "adapter", "", "progress")[verb]
                answer = getattr(session, name)(sender, _KIND[verb].FromString(content))
                must(sender in COHORT, "somebody was heard who is not in the session")
                if name == "adapter":
                    list(answer)

    def _go(self) -> None:
        machine = self._machine
        if machine.phase is not Phase.GATHERING:
            return
        for site in machine.live - machine.in_state(SiteState.READY):
            machine.leave(site, "was not ready")
        machine.go(self._steps, 0)
        self._added = {}
        self._steps += 1

    def _upload(self, sender: str, content: bytes) -> None:
        attempt = self._machine.attempt
        before = _due(attempt, sender)
        parts = [wire.UploadPart.FromString(one) for one in frames_of(content)]
        try:
            self._session.upload(sender, iter(parts))
        finally:
            if _due(attempt, sender) > before:
                words = next(part.chunk.words for part in parts[1:])
                must(sender not in self._added, "a vector was added twice")
                self._added[sender] = np.frombuffer(words, "<u4").astype(np.uint32)

    def _settle(self) -> None:
        if self._machine.attempt is None:
            return
        attempt, complete = self._machine.settle()
        must(attempt.heard == set(self._added), "it heard whom it did not")
        if complete:
            vectors = [self._added[site] for site in attempt.sites]
            expected = np.sum(vectors, axis=0, dtype=np.uint32)
            must(len(attempt.sites) >= 2, "a sum of one site")
            self.sums += 1
            must(np.array_equal(attempt.total(), expected), "a sum that is not that of its sites")


def _due(attempt: Attempt | None, site: str) -> int:
    upload = attempt._uploads.get(site) if attempt else None
    return upload.due if upload else 0


def session_at_the_server(setting: Setting) -> Parser:
    world = setting.world
    adapter = np.arange(5, dtype=np.float32)
    descriptor = world.descriptor(cohort=COHORT, dimension=5)
    rules = world.rules.model_copy(update={"minimum": 2, "max_colluding": 0})

    def read(data: bytes) -> None:
        played = _Played(Aggregator(descriptor, rules, setting.roster), adapter)
        refusal: HortusError | DecodeError | None = None
        for frame in frames_of(data)[:60]:
            if len(frame) >= 2:
                try:
                    played.play(frame)
                except (HortusError, DecodeError) as error:
                    refusal = error  # told to its sender; the others go on
        if refusal is not None and not played.sums:
            raise refusal

    script = framed(list(_honest_script(setting, descriptor.digest(), adapter)))
    return Parser("session at the server", (script,), of_frames(_changed_frame), read, 0.2)


def _honest_script(
    setting: Setting, digest: bytes, adapter: NDArray[np.float32]
) -> Iterator[bytes]:
    exchanges = [
        KeyExchange.announce(setting.identity(site), setting.roster, COHORT, digest)
        for site in COHORT
    ]
    announced = [exchange.announcement for exchange in exchanges]
    for number, exchange in enumerate(exchanges):
        yield bytes([number, _ANNOUNCE]) + _announcement(exchange).SerializeToString()
    for number, exchange in enumerate(exchanges):
        sealed = [_encapsulation(one) for one in exchange.encapsulate(announced)]
        told = wire.Encapsulations(session=_SESSION, encapsulations=sealed)
        yield bytes([number, _ENCAPSULATE]) + told.SerializeToString()
    for step in range(2):
        for number in range(3):
            yield bytes([number, _READY]) + wire.ReadyRequest(session=_SESSION).SerializeToString()
        if not step:
            yield bytes([0, _KEYS])
        yield bytes([0, _GO])
        wanted = wire.AdapterRequest(session=_SESSION, digest=vector_digest(adapter))
        yield bytes([1, _ADAPTER]) + wanted.SerializeToString()
        header = wire.UploadHeader(session=_SESSION, step=step)
        yield bytes([2, _PROGRESS]) + header.SerializeToString()
        for number in range(3):
            chunk = next(split(np.full(5, 2**30 + number, np.uint32)))
            parts = (wire.UploadPart(header=header), wire.UploadPart(chunk=chunk))
            yield bytes([number, _UPLOAD]) + framed([part.SerializeToString() for part in parts])
        yield bytes([0, _SETTLE])


def _changed_frame(frame: bytes, chance: Random) -> bytes:
    if len(frame) < 2 or chance.random() < 0.1:
        return of_bytes(frame, chance)
    if chance.random() < 0.1:
        return bytes([chance.randrange(4), frame[1]]) + frame[2:]
    verb = frame[1] % 9
    if verb == _UPLOAD:
        return frame[:2] + of_frames(of_message(wire.UploadPart))(frame[2:], chance)
    return frame[:2] + (of_message(_KIND[verb])(frame[2:], chance) if verb in _KIND else b"")


def _announcement(exchange: KeyExchange) -> wire.Announcement:
    own = exchange.announcement
    return wire.Announcement(
        protocol=1,
        session=_SESSION,
        site=own.site,
        x25519=own.x25519,
        mlkem=own.mlkem,
        signature=own.signature,
    )


def _encapsulation(one: Any) -> wire.Encapsulation:
    return wire.Encapsulation(
        sender=one.sender,
        receiver=one.receiver,
        ciphertext=one.ciphertext,
        signature=one.signature,
    )


class _HostileServer:
    """The channel to a server that is honest but for the answers that it alters.

    Args:
        setting: Has the other sites' keys.
        descriptor: The session.
        altered: For the number of an answer, the seed of its change.

    Attributes:
        uploads: Step and attempt of each vector that it got, with its words.
        keys_differ: Whether it altered what the other sites have said.
    """

    def __init__(self, setting: Setting, descriptor: Any, altered: dict[int, int]) -> None:
        digest = descriptor.digest()
        self._peers = [
            KeyExchange.announce(setting.identity(site), setting.roster, COHORT, digest)
            for site in COHORT[1:]
        ]
        self._session = descriptor.session
        self._altered, self._answers = altered, count()
        self._adapter = np.zeros(descriptor.dimension, np.float32)
        self._steps = 0
        self.uploads: list[tuple[int, int, bytes]] = []
        self.keys_differ = False

    def _answer(self, honest: _Sent) -> _Sent:
        seed = self._altered.get(next(self._answers))
        if seed is None:
            return honest
        change = of_message(type(honest))
        try:
            told = type(honest).FromString(change(honest.SerializeToString(), Random(seed)))
        except DecodeError as error:
            raise ConnectionLost("what gRPC says of a message that is none") from error
        return told

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        own = [peer.announcement for peer in self._peers]
        told = [read_announcement(request), *own]
        self._sealed = [one for peer in self._peers for one in peer.encapsulate(told)]
        sent = [request, *map(_announcement, self._peers)]
        # A head, or a version, may be altered; what the sites have said may not.
        answer = self._answer(wire.Announcements(protocol=1, announcements=sent))
        self.keys_differ |= not _are_same(map(read_announcement, answer.announcements), told)
        return answer

    def encapsulate(self, _: wire.Encapsulations) -> wire.Encapsulations:
        own = [_encapsulation(one) for one in self._sealed if one.receiver == "ash"]
        answer = self._answer(wire.Encapsulations(session=self._session, encapsulations=own))
        heard = map(read_encapsulation, answer.encapsulations)
        self.keys_differ |= not _are_same(heard, map(read_encapsulation, own))
        return answer

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        if request.refusal or self._steps == 3:
            return self._answer(wire.Turn(finished=wire.Finished(reason="the session is over")))
        go = wire.Go(
            step=self._steps, survivors=COHORT, adapter_digest=vector_digest(self._adapter)
        )
        self._steps += 1
        return self._answer(wire.Turn(go=go))

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        for chunk in split(self._adapter, request.first_sequence):
            yield self._answer(chunk)

    def upload(self, parts: Iterable[wire.UploadPart]) -> wire.Receipt:
        header, *chunks = list(parts)
        words = b"".join(part.chunk.words for part in chunks)
        self.uploads.append((header.header.step, header.header.attempt, words))
        if next(self._answers) in self._altered:
            raise ConnectionLost("the connection was lost")
        return wire.Receipt()

    def progress(self, _: wire.UploadHeader) -> wire.UploadProgress:
        return self._answer(wire.UploadProgress(next_sequence=0))


def _are_same(told: Iterable[Any], honest: Iterable[Any]) -> bool:
    """Whether the same sites say the same things, in whatever order."""
    return sorted(map(repr, told)) == sorted(map(repr, honest))


def session_at_a_site(setting: Setting) -> Parser:
    """The real agent, ledger and training; the input says which answers are altered, and how."""
    world, site, numbers = setting.world, setting.site("ash"), count(1)

    def read(data: bytes) -> None:
        altered = {one[0] % 24: int.from_bytes(one[1:], "big") for one in frames_of(data) if one}
        descriptor = world.descriptor(cohort=COHORT, session=f"{next(numbers):032x}")
        server = _HostileServer(setting, descriptor, altered)
        agent = world.agent_on(site, lambda _: nullcontext(server))
        reply = without_defects(lambda: agent.take_part(world.request(descriptor)))
        _check_uploads(server.uploads, descriptor.session, site.ledger)
        must(not (server.keys_differ and server.uploads), "a vector went under altered keys")
        if "over" not in reply.reason:
            raise Documented(reply.reason)

    seeds = tuple(framed([b"", *([bytes([n]) + b"seed"] if n else [])]) for n in range(12))
    return Parser("session at a site", seeds, of_frames(of_bytes), read, 0.1)


def _check_uploads(uploads: list[tuple[int, int, bytes]], session: str, ledger: Any) -> None:
    seen: dict[tuple[int, int], bytes] = {}
    for step, attempt, words in uploads:
        must(seen.setdefault((step, attempt), words) == words, "two vectors under one mask")
        try:
            ledger._holds.check_unused((session, step, attempt))
        except Refused:
            continue
        must(holds=False, what="a vector was sent that is not charged")


def descriptor_at_an_agent(setting: Setting) -> Parser:
    """Signed by the server; a session of sites that the agent cannot reach."""
    world = setting.world

    def unreachable(_: object) -> Any:
        raise ConnectionLost("nobody is there")

    agent = world.agent_on(setting.site("ash"), unreachable)
    honest = world.request()

    def read(data: bytes) -> None:
        request = world.request()
        request.descriptor, request.signature = data, world.server.sign("session", data)
        raise Documented(without_defects(lambda: agent.take_part(request)).reason)

    return Parser("descriptor of a hostile server", (honest.descriptor,), of_json, read, 0.1)


SESSIONS: tuple[Maker, ...] = (
    descriptor_at_an_agent,
    session_at_the_server,
    session_at_a_site,
)
