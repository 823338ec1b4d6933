"""A site's session against every script that a server may play, with connections that break.

One thread: the peers' keys are real, and answer within the server's calls.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from helpers.fixed_terms import FixedTerms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hortus.client.consent.terms import ChargeAccount
from hortus.client.pace import Pace, RehearsalClock, Timetable
from hortus.client.session import Session
from hortus.client.states import CLIENT_TRANSITIONS, ClientState, ClientStates
from hortus.client.trainer import untimed
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.secure_sum.key_exchange import Announcement, Encapsulation, KeyExchange
from hortus.privacy.secure_sum.masks import MaskGenerator, StepView
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import CHUNK_WORDS
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget
from hortus.protocol.vectors import chunk_count, chunk_slice, split, vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ConnectionLost, HortusError, ProtocolError

SITES = ("ash", "birch", "cedar")
OWN = "ash"
DIMENSION = CHUNK_WORDS + 5
CHUNKS = chunk_count(DIMENSION)
ADAPTERS = {
    vector_digest(adapter): adapter
    for adapter in (np.zeros(DIMENSION, np.float32), np.ones(DIMENSION, np.float32))
}
IDENTITIES = {site: Identity.generate(site) for site in SITES}
ROSTER = Roster({s: i.public_key_bytes for s, i in IDENTITIES.items()}, bytes(32))


class Trainer:
    """A vector that says which step it was made for, and as which of all."""

    made = 0

    def vector(self, adapter: Any, step: int, attempt: int, told: bytes = b"") -> Any:
        self.made += 1
        return np.full(DIMENSION, 1000 * step + self.made, np.int64)


Turn = tuple[str, str]  # what the server says, and what becomes of the upload
GO = ["next step", "next attempt", "replay", "too few", "stranger", "no adapter"]  # two are legal
UPLOADS = ["taken", "cut", "cut twice", "late", "receipt lost"]


def after(now: tuple[int, int], what: str) -> tuple[int, int]:
    step, attempt = now
    if what == "replay" and step >= 0:
        return now
    return (max(step, 0), attempt + 1) if what == "next attempt" else (step + 1, 0)


class Script:
    """The server's side: honest peers, a script of turns, and what it holds in the end."""

    def __init__(self, turns: list[Turn], ledger: Ledger, descriptor: Descriptor) -> None:
        self._turns = list(turns)
        self._ledger = ledger
        self._descriptor = descriptor
        self._peers: dict[str, KeyExchange] = {}
        self._sent: list[Encapsulation] = []
        self.masks: dict[str, MaskGenerator] = {}
        self.now: tuple[int, int] = (-1, 0)
        self.upload_is = "taken"
        self._cuts = 0
        self.words: dict[tuple[int, int], dict[int, bytes]] = {}
        self.refusal = ""

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        digest = self._descriptor.digest()
        self._peers = {
            s: KeyExchange.announce(IDENTITIES[s], ROSTER, SITES, digest) for s in SITES[1:]
        }
        own = Announcement(request.site, request.x25519, request.mlkem, request.signature)
        everybody = [own, *(peer.announcement for peer in self._peers.values())]
        self._sent = [one for p in self._peers.values() for one in p.encapsulate(everybody)]
        wired = [
            wire.Announcement(site=a.site, x25519=a.x25519, mlkem=a.mlkem, signature=a.signature)
            for a in everybody
        ]
        return wire.Announcements(protocol=1, announcements=wired)

    def encapsulate(self, request: wire.Encapsulations) -> wire.Encapsulations:
        said = [
            Encapsulation(e.sender, e.receiver, e.ciphertext, e.signature)
            for e in request.encapsulations
        ]
        said += self._sent
        for site, peer in self._peers.items():
            self.masks[site] = peer.agree([e for e in said if e.receiver == site], min_cohort=2)
        own = [e for e in self._sent if e.receiver == OWN]
        return wire.Encapsulations(
            encapsulations=[
                wire.Encapsulation(
                    sender=e.sender,
                    receiver=OWN,
                    ciphertext=e.ciphertext,
                    signature=e.signature,
                )
                for e in own
            ]
        )

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        if request.refusal or not self._turns:
            self.refusal = request.refusal
            return wire.Turn(finished=wire.Finished(reason="done"))
        what, self.upload_is = self._turns.pop(0)
        if what == "replay" and self.now[0] < 0:
            what = "too few"  # there is nothing to replay yet
        self._cuts = {"cut": 1, "cut twice": 2, "receipt lost": 1}.get(self.upload_is, 0)
        step, attempt = after(self.now, what)
        survivors = {"too few": (OWN,), "stranger": (OWN, "birch", "oak")}.get(what, SITES)
        digest = "0" * 64 if what == "no adapter" else sorted(ADAPTERS)[step % 2]
        if what in GO[:2]:
            self.now = (step, attempt)
        go = wire.Go(step=step, attempt=attempt, survivors=survivors, adapter_digest=digest)
        return wire.Turn(go=go)

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        if request.digest not in ADAPTERS:
            raise ProtocolError("no such adapter")
        for chunk in split(ADAPTERS[request.digest], request.first_sequence):
            yield chunk
            if self.upload_is == "cut" and chunk.sequence == 0:
                raise ConnectionLost("cut")

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        header = next(parts).header
        key = (header.step, header.attempt)
        assert key == self.now
        held = self.words.setdefault(key, {})
        assert header.first_sequence in (0, len(held))
        if self.upload_is == "late":
            raise ProtocolError("too late")
        for part in parts:
            # Persisted before the first byte: whoever reads the disk now finds the use.
            assert self._uses() >= {key}
            sequence, words = part.chunk.sequence, part.chunk.words
            assert held.setdefault(sequence, words) == words
            if self._cuts and self.upload_is != "receipt lost":
                self._cuts -= 1
                raise ConnectionLost("cut")
        if self._cuts:
            self._cuts = 0
            raise ConnectionLost("the receipt is lost")
        return wire.Receipt()

    def progress(self, request: wire.UploadHeader) -> wire.UploadProgress:
        # After "cut twice" the server asks for the same chunk again: it must be the same chunk.
        held = self.words[request.step, request.attempt]
        again = self.upload_is == "cut twice" and self._cuts
        return wire.UploadProgress(next_sequence=0 if again else len(held))

    def _uses(self) -> set[tuple[int, int]]:
        rows = self._ledger._connection.execute("SELECT step, attempt FROM uses").fetchall()
        return set(rows)

    def unmasked(self, step: int, attempt: int, sequence: int) -> NDArray[np.uint32]:
        """The site's chunk with the peers' halves of the masks taken off."""
        words = np.frombuffer(self.words[step, attempt][sequence], "<u4").copy()
        digest = bytes.fromhex(sorted(ADAPTERS)[step % 2])
        view = StepView(step, attempt, SITES, digest)
        zeros = np.zeros(DIMENSION, np.int64)
        for masks in self.masks.values():
            chunks = list(masks.mask(zeros, view).chunks())
            words += np.frombuffer(chunks[sequence], "<u4")
        return words


@pytest.fixture
def contract(plan: Plan) -> Contract:
    fields = plan.model_dump()
    fields["privacy"] |= {"noise": "unsafe_none", "epsilon": None}
    fields["training"] |= {"rounds": 10}
    return Plan(**fields).contract(model_digest="a" * 64, noise_multiplier=None)


def legal(turns: list[Turn]) -> list[tuple[tuple[int, int], str]]:
    """The model: which turns a site follows, up to the first that it must refuse."""
    followed: list[tuple[tuple[int, int], str]] = []
    now = (-1, 0)
    for what, upload in turns:
        if what not in GO[:2]:
            break
        now = after(now, what)
        followed.append((now, upload))
    return followed


good = st.tuples(st.sampled_from(GO[:2]), st.sampled_from(UPLOADS))
bad = st.tuples(st.sampled_from(GO[2:]), st.sampled_from(UPLOADS))


@given(turns=st.lists(good, max_size=3), then=st.lists(bad, max_size=1))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_the_server_says_a_site_does_what_the_model_does(
    contract: Contract, turns: list[Turn], then: list[Turn]
) -> None:
    encoding = PrivateStep.of(contract, DIMENSION, len(SITES))
    descriptor = Descriptor(
        run="1" * 32,
        session="2" * 32,
        contract=contract.digest(),
        cohort=SITES,
        first_round=0,
        dimension=DIMENSION,
        scale=encoding.codec.scale,
    )
    script = turns + then
    with TemporaryDirectory() as directory:
        ledger = Ledger.open(Path(directory) / "ledger.sqlite", IDENTITIES[OWN], lambda: 1.0)
        server = Script(script, ledger, descriptor)
        session = make_session(encoding, descriptor, ledger, server)
        followed = legal(script)
        if len(followed) < len(script):
            with pytest.raises(HortusError):
                session.run()
            assert session._states.now is ClientState.LEFT
            assert server.refusal
        else:
            assert session.run() == (len(script), "done")
            assert session._states.now is ClientState.FINISHED
        assert server._uses() == {when for when, _ in followed}
        ledger.close()
    check_vectors(server, followed)


def make_session(
    encoding: PrivateStep, descriptor: Descriptor, ledger: Ledger, server: Script
) -> Session:
    return Session(
        identity=IDENTITIES[OWN],
        roster=ROSTER,
        descriptor=descriptor,
        encoding=encoding,
        trainer=Trainer(),  # type: ignore[arg-type]
        terms=FixedTerms(ChargeAccount(ledger, "d" * 64, Budget(epsilon=1, delta=1e-5))),
        ledger=ledger,
        channel=server,
        stopwatch=untimed,
        timetable=Timetable(Pace(1), RehearsalClock()),
        public=str,
    )


def check_vectors(server: Script, followed: list[tuple[tuple[int, int], str]]) -> None:
    """What the server holds is what the model says was sent, each vector under masks of its own."""
    assert set(server.words) == {when for when, _ in followed}
    for (step, attempt), upload in followed:
        held = server.words[step, attempt]
        assert len(held) == (0 if upload == "late" else CHUNKS)
        if held and (step, attempt) == followed[-1][0]:
            # The mode sends a step's first vector again; it is under these masks and no others.
            made = 1 + list(dict.fromkeys(s for (s, _), _ in followed)).index(step)
            for sequence in held:
                place = chunk_slice(sequence, DIMENSION)
                chunk = np.full(place.stop - place.start, 1000 * step + made, np.uint32)
                assert np.array_equal(server.unmasked(step, attempt, sequence), chunk)
                server.masks = {}
                break


def test_states_move_by_the_table_or_not_at_all() -> None:
    for state in ClientState:
        for after in ClientState:
            states = ClientStates()
            states._state = state
            if after in CLIENT_TRANSITIONS[state]:
                states.enter(after)
                assert states.now is after
            else:
                with pytest.raises(RuntimeError, match="cannot be"):
                    states.enter(after)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {ClientState.NEW}
    while more := {b for a in reached for b in CLIENT_TRANSITIONS[a]} - reached:
        reached |= more
    assert reached == set(ClientState)
    ends = {state for state in ClientState if not CLIENT_TRANSITIONS[state]}
    assert ends == {ClientState.FINISHED, ClientState.LEFT}


def test_the_documentation_has_every_transition() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    section = text.split("### A site, as it sees itself\n", 1)[1].split("\n#", 1)[0]
    documented = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            state, _, after = (cell.strip() for cell in line.strip("|").split("|"))
            documented[state.strip("`")] = {name.strip(" `") for name in after.split(",")} - {"–"}
    coded = {state.value: {b.value for b in after} for state, after in CLIENT_TRANSITIONS.items()}
    assert documented == coded
