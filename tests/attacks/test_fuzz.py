"""Every parser of what another party sends, under made-up and damaged input.

Whatever comes in, what comes out is a value or an error of ours: no other exception, and no hang
(each example has a deadline of a few seconds).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from attacks.world import SITES, World
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hortus.privacy.audit import audit
from hortus.privacy.evidence import collect, export, load
from hortus.privacy.ledger import Ledger
from hortus.privacy.secure_sum import KeyExchange, read_announcement, read_encapsulation
from hortus.protocol.answer import Answer
from hortus.protocol.card import load_card
from hortus.protocol.errors import HortusError
from hortus.protocol.heads import Head
from hortus.protocol.identity import Roster
from hortus.protocol.limits import CHUNK_WORDS, checked
from hortus.protocol.plan_file import load_plan
from hortus.protocol.policy import Policy
from hortus.protocol.vectors import receive
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.server.aggregator import Aggregator

fuzzed = settings(
    max_examples=40,
    deadline=timedelta(seconds=5),
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@contextmanager
def only_our_errors() -> Iterator[None]:
    with suppress(HortusError):
        yield


@st.composite
def damaged(draw: Callable[[Any], Any], whole: bytes) -> bytes:
    """Bytes with a piece cut out, replaced or repeated."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, min(len(whole), start + 40)))
    return (
        whole[:start] + draw(st.binary(max_size=20) | st.just(whole[start:end] * 2)) + whole[end:]
    )


@st.composite
def changed(draw: Callable[[Any], Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A mapping with one value somewhere in it replaced, removed or added."""
    copy = json.loads(json.dumps(fields, default=str))
    place = copy
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        break
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            place[key] = draw(JSON)
        case "remove":
            del place[key]
        case _:
            place[draw(st.text(min_size=1, max_size=8))] = draw(JSON)
    return copy


SMALL = st.integers(0, 3) | st.integers(0, 2**32 - 1)
NAMES = st.sampled_from([*SITES, "", "elm", "x" * 63, "x" * 64, "ä"])


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Messages of a kind whose fields are made up, sometimes plausibly."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is not None:
            one = messages(getattr(wire, field.message_type.name))
        elif field.type == field.TYPE_STRING:
            one = NAMES | st.text(max_size=70) | st.just("2" * 32)
        elif field.type == field.TYPE_BYTES:
            lengths = st.sampled_from([0, 1, 32, 64, 1088, 1184, 1185])
            one = lengths.map(bytes) | st.binary(max_size=70)
        elif field.type == field.TYPE_DOUBLE:
            one = st.floats()
        else:
            one = SMALL
        fields[field.name] = st.lists(one, max_size=5) if field.is_repeated else one
    # Of a oneof, setting one member clears the other.
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


KINDS = [getattr(wire, name) for name in wire.DESCRIPTOR.message_types_by_name]


@pytest.fixture
def hasty(make_world: Callable[..., World]) -> World:
    """A world whose sites do not wait for a server that is not there."""
    return make_world(cohort={"join_deadline": 0.1})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.name)
@fuzzed
@given(data=st.data())
def test_every_message(kind: type[Message], data: st.DataObject) -> None:
    with only_our_errors():
        checked(data.draw(messages(kind)))
    try:
        message = kind.FromString(data.draw(st.binary(max_size=200)))
    except DecodeError:
        return  # gRPC answers this before any code of ours
    with only_our_errors():
        checked(message)


@fuzzed
@given(data=st.data())
def test_contracts(world: World, data: st.DataObject) -> None:
    """Signed by the server, which is where a fuzzer of the server's would begin."""
    agent = world.agent(world.site("ash"), port=1)
    whole = world.contract.model_dump(mode="json")
    encoded = data.draw(
        changed(whole).map(lambda fields: json.dumps(fields).encode())
        | damaged(json.dumps(whole).encode())
        | st.binary(max_size=50)
    )
    asked = wire.ConsiderRequest(
        protocol=1, contract=encoded, signature=world.server.sign("contract", encoded)
    )
    reply = agent.consider(asked)
    assert reply.site == "ash"
    assert reply.refusal == "" or reply.refusal.isprintable()


@fuzzed
@given(data=st.data())
def test_descriptors(hasty: World, data: st.DataObject) -> None:
    """One that is still sound is taken up, and the site finds nobody at port 1."""
    world = hasty
    agent = world.agent(world.site("ash"), port=1)
    request = world.request()
    whole = json.loads(request.descriptor)
    encoded = data.draw(
        changed(whole).map(lambda fields: json.dumps(fields).encode())
        | damaged(request.descriptor)
        | st.binary(max_size=50)
    )
    if encoded == request.descriptor:
        return
    request.descriptor = encoded
    request.signature = world.server.sign("session", encoded)
    assert agent.take_part(request).reason.isprintable()


@fuzzed
@given(data=st.data())
def test_announcements_and_encapsulations_at_a_site(world: World, data: st.DataObject) -> None:
    site = world.site("ash")
    digest = world.descriptor().digest()
    exchange = KeyExchange.announce(site.identity, site.roster, SITES, digest)
    own = wire.Announcement(
        site="ash",
        x25519=exchange.announcement.x25519,
        mlkem=exchange.announcement.mlkem,
        signature=exchange.announcement.signature,
    )
    announced = data.draw(st.lists(messages(wire.Announcement) | st.just(own), max_size=5))
    sealed = data.draw(st.lists(messages(wire.Encapsulation), max_size=5))
    with only_our_errors():
        exchange.encapsulate(map(read_announcement, announced))
    exchange = KeyExchange.announce(site.identity, site.roster, ("ash", "birch"), digest)
    peer = world.site("birch")
    theirs = KeyExchange.announce(peer.identity, peer.roster, ("ash", "birch"), digest)
    exchange.encapsulate([exchange.announcement, theirs.announcement])
    with only_our_errors():
        exchange.agree(map(read_encapsulation, sealed), min_cohort=2)


@fuzzed
@given(data=st.data())
def test_what_sites_send_to_the_server(world: World, data: st.DataObject) -> None:
    """The session is closed, so that nothing waits for others."""
    roster = Roster.load(world.consortium.server.roster)
    session = Aggregator(world.descriptor(), world.rules, roster)
    session.close("over")
    site = data.draw(st.sampled_from(SITES))
    with only_our_errors():
        session.announce(site, data.draw(messages(wire.Announcement)))
    with only_our_errors():
        session.encapsulate(site, data.draw(messages(wire.Encapsulations)))
    with only_our_errors():
        session.ready(site, data.draw(messages(wire.ReadyRequest)))
    with only_our_errors():
        list(session.adapter(site, data.draw(messages(wire.AdapterRequest))))
    with only_our_errors():
        session.progress(site, data.draw(messages(wire.UploadHeader)))
    with only_our_errors():
        session.upload(site, iter(data.draw(st.lists(messages(wire.UploadPart), max_size=4))))


@fuzzed
@given(
    chunks=st.lists(messages(wire.Chunk), max_size=4),
    length=st.sampled_from([1, 7, CHUNK_WORDS, CHUNK_WORDS + 1]),
    first=st.integers(0, 3),
)
def test_chunks(chunks: list[wire.Chunk], length: int, first: int) -> None:
    with only_our_errors():
        list(receive(chunks, np.empty(length, np.float32), first))


@fuzzed
@given(site=NAMES, refusal=st.text(max_size=30), signature=st.binary(max_size=70))
def test_answers(world: World, site: str, refusal: str, signature: bytes) -> None:
    roster = Roster.load(world.consortium.server.roster)
    with only_our_errors():
        Answer(site, refusal, signature).verify(roster, b"1" * 32, b"contract")


FILES: dict[str, tuple[Callable[[World], Path], Callable[[Path], Any]]] = {
    "roster": (lambda world: world.consortium.site("ash").roster, Roster.load),
    "policy": (lambda world: world.consortium.site("ash").policy, Policy.load),
    "card": (
        lambda world: next(iter(sorted(world.consortium.directory.rglob("*card*.yaml")))),
        load_card,
    ),
    "plan": (lambda world: world.consortium.directory.parent / "plan.yaml", load_plan),
}


@pytest.mark.parametrize("kind", FILES)
@fuzzed
@given(data=st.data())
def test_files_of_another_party(
    world: World, tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    locate, read = FILES[kind]
    whole = locate(world).read_bytes()
    fields = yaml.safe_load(whole)
    made_up = (
        changed(fields).map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode())
        | damaged(whole)
        | st.binary(max_size=60)
        | st.text("[]{}:-&*!|>'\"%@`,? \n\t#a1", max_size=60).map(str.encode)
    )
    path = tmp_path / "fuzzed.yaml"
    path.write_bytes(data.draw(made_up))
    with only_our_errors():
        read(path)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("value", [[], {}, 1e999, "\x00", [[[]]], None, -1, 2**70])
def test_each_field_of_a_file_with_a_value_of_another_kind(
    world: World, tmp_path: Path, kind: str, value: Any
) -> None:
    locate, read = FILES[kind]
    fields = yaml.safe_load(locate(world).read_bytes())
    path = tmp_path / "changed.yaml"
    for field in fields:
        path.write_text(yaml.safe_dump(fields | {field: value}))
        with only_our_errors():
            read(path)


@fuzzed
@given(data=st.data())
def test_anchors(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "anchor.json"
    path.write_bytes(data.draw(st.binary(max_size=80) | JSON.map(lambda v: json.dumps(v).encode())))
    with only_our_errors():
        Head.load(path)


@fuzzed
@given(data=st.data())
def test_evidence(world: World, tmp_path: Path, data: st.DataObject) -> None:
    """What a site exports for an auditor elsewhere, damaged on the way."""
    world.site("ash")
    path = tmp_path / "evidence.zip"
    path.unlink(missing_ok=True)
    export(collect(world.consortium.site("ash"), "ash"), path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    roster = Roster.load(world.consortium.site("ash").roster)
    with only_our_errors():
        audit(load(path), roster)


@fuzzed
@given(data=st.data())
def test_ledger_files(world: World, tmp_path: Path, data: st.DataObject) -> None:
    """A page of the file is overwritten: it opens, or says that it is damaged."""
    site = world.site("ash")
    path = tmp_path / "ledger.sqlite"
    path.unlink(missing_ok=True)
    Ledger.open(path, site.identity, lambda: 1.0).close()
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=200))
    content[start : start + len(piece)] = piece[: len(content) - start]
    path.write_bytes(content)
    with only_our_errors():
        Ledger.open(path, site.identity, lambda: 1.0).close()
