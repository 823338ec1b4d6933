"""Messages that come over a wire: every kind by itself, and those that are signed."""

import copy
import json
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import xxhash
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fuzzing.mutation import framed, frames_of, of_frames, of_json, of_message
from fuzzing.parser import Documented, Parser, must
from fuzzing.setting import Maker, Setting, without_defects
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from hortus.client.consent.refusals import parse_contract, read_descriptor
from hortus.client.site.witness import Witness
from hortus.privacy.secure_sum.key_exchange import (
    KeyExchange,
    read_announcement,
    read_encapsulation,
)
from hortus.protocol.answer import Answer
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.heads import Countersignature, LedgerHead
from hortus.protocol.limits import checked
from hortus.protocol.plan import Contract
from hortus.protocol.vectors import receive, split
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.canonical import canonical_json
from hortus.server.grid_sites import _read_answer
from hortus.server.sums.notary import Notary

KINDS = [getattr(wire, name) for name in wire.DESCRIPTOR.message_types_by_name]


def filled(kind: Any, depth: int = 0) -> Any:
    """Returns a message with something plausible in every field."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is not None:
            inner = filled(getattr(wire, field.message_type.name), depth + 1)
            held = getattr(message, field.name)
            held.append(inner) if field.is_repeated else held.CopyFrom(inner)
            continue
        value: Any = 1
        if field.type == field.TYPE_STRING:
            value = "2" * 32 if "session" in field.name else "ash"
        elif field.type == field.TYPE_BYTES:
            value = bytes(32)
        elif field.type == field.TYPE_DOUBLE:
            value = 1.5
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
    return message


def wire_message(kind: Any) -> Maker:
    def make(_: Setting) -> Parser:
        def read(data: bytes) -> None:
            message = checked(kind.FromString(data))
            must(kind.FromString(message.SerializeToString()) == message, "it is not itself again")
            must(_is_known(message), "a field that this version lacks")

        seeds = (filled(kind).SerializeToString(),)
        return Parser(f"wire: {kind.DESCRIPTOR.name}", seeds, of_message(kind), read)

    make.__name__ = kind.DESCRIPTOR.name
    return make


def _is_known(message: Any) -> bool:
    if len(UnknownFieldSet(message)):
        return False
    for field, value in message.ListFields():
        if field.message_type is not None:
            inner = value if field.is_repeated else (value,)
            if not all(map(_is_known, inner)):
                return False
    return True


def contract(setting: Setting) -> Parser:
    def read(data: bytes) -> None:
        parsed = parse_contract(data)
        again = Contract.model_validate_json(canonical_json(parsed.model_dump(mode="json")))
        must(again == parsed and again.digest() == parsed.digest(), "another one, read again")

    seeds = (canonical_json(setting.contract.model_dump(mode="json")),)
    return Parser("contract", seeds, of_json, read)


def descriptor(setting: Setting) -> Parser:
    def read(data: bytes) -> None:
        parsed = read_descriptor(data)
        again = Descriptor.model_validate_json(canonical_json(parsed.model_dump(mode="json")))
        must(again == parsed and again.digest() == parsed.digest(), "another one, read again")

    seeds = (setting.world.request().descriptor,)
    return Parser("session descriptor", seeds, of_json, read)


def contract_at_an_agent(setting: Setting) -> Parser:
    """Signed by the server, which is where a fuzzer of the server's would begin."""
    world = setting.world
    agent, honest = world.agent(setting.site("ash"), port=1), world.contract.digest()

    def read(data: bytes) -> None:
        asked = wire.ConsiderRequest(
            protocol=1, contract=data, signature=world.server.sign("contract", data)
        )
        reply = without_defects(lambda: agent.consider(asked))
        must(
            (reply.site == "ash" and reply.refusal.isprintable()) or not reply.refusal, "its answer"
        )
        if reply.refusal:
            raise Documented(reply.refusal)
        must(parse_contract(data).digest() == honest, "a plan that is not approved")

    seeds = (canonical_json(world.contract.model_dump(mode="json")),)
    return Parser("contract of a hostile server", seeds, of_json, read, 0.1)


def request_at_an_agent(setting: Setting) -> Parser:
    """What a relay hands on; only what the server signed may be looked at."""
    world = setting.world
    agent, honest = world.agent(setting.site("ash"), port=1), world.question(world.contract)
    honest.challenge = bytes(32)

    def read(data: bytes) -> None:
        asked = wire.ConsiderRequest.FromString(data)
        reply = without_defects(lambda: agent.consider(asked))
        if reply.refusal:
            raise Documented(reply.refusal)
        same = (asked.contract, asked.signature) == (honest.contract, honest.signature)
        must(same, "the server has not signed it")

    change = of_message(wire.ConsiderRequest)
    return Parser("question, altered", (honest.SerializeToString(),), change, read, 0.1)


def answer(setting: Setting) -> Parser:
    said = Answer.sign(setting.identity("ash"), b"1" * 32, b"contract", "no budget")
    honest = (said.site, said.refusal, said.again, said.signature)
    seed = wire.ConsiderReply(site=said.site, refusal=said.refusal, signature=said.signature)

    def read(data: bytes) -> None:
        reply = checked(wire.ConsiderReply.FromString(data))
        told = (reply.site, reply.refusal, reply.again, reply.signature)
        Answer(*told).verify(setting.roster, b"1" * 32, b"contract")
        must(told == honest, "a forged answer")

    seeds = (seed.SerializeToString(),)
    return Parser("answer, altered", seeds, of_message(wire.ConsiderReply), read)


def answer_of_a_node(setting: Setting) -> Parser:
    """What Flower delivers from a node: a record of whatever kinds it likes."""
    # Flower's Message constructor asks whose task this process is.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    question = Message(RecordDict(), 1, "query")
    question.metadata.__dict__["_message_id"] = "1"

    def read(data: bytes) -> None:
        try:
            values = of_record(data)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Documented("Flower has no such record") from error
        said = _read_answer(Message(RecordDict({"answer": values}), reply_to=question))
        said.verify(setting.roster, b"1" * 32, b"contract")

    seed = canonical_json({"site": "ash", "refusal": "", "signature": "00" * 64})
    return Parser("answer of a Flower node", (seed,), of_json, read, 0.6)


def of_record(data: bytes) -> ConfigRecord:
    fields = json.loads(data)
    if isinstance(fields.get("signature"), str):
        fields["signature"] = fields["signature"].encode()
    return ConfigRecord(fields)


def _exchanges(setting: Setting, cohort: tuple[str, ...]) -> dict[str, KeyExchange]:
    digest = setting.world.descriptor().digest()
    return {
        name: KeyExchange.announce(setting.identity(name), setting.roster, cohort, digest)
        for name in cohort
    }


def _again(exchange: KeyExchange) -> KeyExchange:
    """Returns a key exchange in the state of another, which can go on by itself."""
    one = copy.copy(exchange)
    one._encapsulated = dict(exchange._encapsulated)
    return one


def announcements(setting: Setting) -> Parser:
    cohort = ("ash", "birch", "cedar")
    exchanges = _exchanges(setting, cohort)
    honest = wire.Announcements(
        protocol=1,
        announcements=[
            wire.Announcement(site=a.site, x25519=a.x25519, mlkem=a.mlkem, signature=a.signature)
            for a in (exchange.announcement for exchange in exchanges.values())
        ],
    )
    due = {exchange.announcement for exchange in exchanges.values()}

    def read(data: bytes) -> None:
        message = checked(wire.Announcements.FromString(data))
        told = list(map(read_announcement, message.announcements))
        _again(exchanges["ash"]).encapsulate(told)
        must(set(told) == due and len(told) == len(due), "keys that no site has announced")

    seeds = (honest.SerializeToString(),)
    return Parser("announcements, altered", seeds, of_message(wire.Announcements), read, 0.4)


def encapsulations(setting: Setting) -> Parser:
    cohort = ("ash", "birch", "cedar")
    exchanges = _exchanges(setting, cohort)
    announced = [exchange.announcement for exchange in exchanges.values()]
    sealed = [one for each in exchanges.values() for one in each.encapsulate(announced)]
    due = {one for one in sealed if one.receiver == "birch"}
    honest = wire.Encapsulations(
        session="2" * 32,
        encapsulations=[
            wire.Encapsulation(
                sender=one.sender,
                receiver=one.receiver,
                ciphertext=one.ciphertext,
                signature=one.signature,
            )
            for one in due
        ],
    )

    def read(data: bytes) -> None:
        message = checked(wire.Encapsulations.FromString(data))
        told = list(map(read_encapsulation, message.encapsulations))
        _again(exchanges["birch"]).agree(told, min_cohort=3)
        must(set(told) == due and len(told) == len(due), "secrets that no site has sent")

    seeds = (honest.SerializeToString(),)
    return Parser("encapsulations, altered", seeds, of_message(wire.Encapsulations), read, 0.4)


def head_at_the_notary(setting: Setting) -> Parser:
    world, identity = setting.world, setting.identity("ash")
    notary = Notary.open(world.consortium.server, lambda: 1.8e9)
    signed = LedgerHead.sign(identity, 7, "ab" * 32)
    head = wire.Head(seq=signed.seq, hash=signed.hash, signature=signed.signature)
    honest = wire.ReadyRequest(session="2" * 32, head=head)

    def read(data: bytes) -> None:
        request = checked(wire.ReadyRequest.FromString(data))
        if notary.answer("ash", identity.public_key_bytes, request) is not None:
            must(request.head == head, "a head that the site has not signed")
            must(notary.known("ash") == signed, "another head than the one countersigned")

    seeds = (honest.SerializeToString(),)
    return Parser("head, altered", seeds, of_message(wire.ReadyRequest), read, 0.4)


def countersignature_at_a_site(setting: Setting) -> Parser:
    world, site = setting.world, setting.site("ash")
    head = LedgerHead.sign(site.identity, 1, "ab" * 32)
    made = Countersignature.make(world.server, head, 1.8e9)
    told = wire.Countersignature(time=made.time, signature=made.signature)
    honest = wire.Turn(go=wire.Go(step=1), countersignature=told)
    witness = Witness(site.identity, site.roster, site.ledger)

    def read(data: bytes) -> None:
        turn = checked(wire.Turn.FromString(data))
        before = site.ledger.last_countersigned()
        witness.keep(head, turn)
        kept = site.ledger.last_countersigned()
        must(kept in (before, made.time), "a time that the server has not signed")

    seeds = (honest.SerializeToString(),)
    return Parser("countersignature, altered", seeds, of_message(wire.Turn), read, 0.4)


def known_head_at_a_site(setting: Setting) -> Parser:
    """A server shows a site a head of its own ledger, or one that it made up."""
    site = setting.site("ash")
    witness = Witness(site.identity, site.roster, site.ledger)
    signed = LedgerHead.sign(site.identity, 10**6, "ab" * 32)
    head = wire.Head(seq=signed.seq, hash=signed.hash, signature=signed.signature)

    def read(data: bytes) -> None:
        told = checked(wire.Announcements.FromString(data))
        witness.check(told)
        must(told.known_head != head, "its ledger lacks an entry that it has signed")

    seeds = (wire.Announcements(protocol=1, known_head=head).SerializeToString(),)
    return Parser("known head, altered", seeds, of_message(wire.Announcements), read)


def chunks(_: Setting) -> Parser:
    """A vector of five words; whatever arrives whole has the words of the one chunk that is due."""
    part = next(split(np.arange(5, dtype=np.uint32)))
    change = of_message(wire.Chunk)

    def changed(data: bytes, chance: Random) -> bytes:
        """With a checksum that fits, half of the time: whoever sends a chunk can make one."""
        data = change(data, chance)
        with suppress(DecodeError):
            one = wire.Chunk.FromString(data)
            if chance.random() < 0.5:
                one.checksum = xxhash.xxh3_64_intdigest(one.words)
            return one.SerializeToString()
        return data

    def read(data: bytes) -> None:
        arrived = [wire.Chunk.FromString(frame) for frame in frames_of(data)]
        words = np.zeros(5, np.uint32)
        list(receive(arrived, words))
        must([one.sequence for one in arrived] == [0], "other chunks than the one due")
        must(words.astype("<u4").tobytes() == arrived[0].words, "other words than those that came")

    seeds = (framed([part.SerializeToString()]),)
    return Parser("chunks", seeds, of_frames(changed), read)


MESSAGES: tuple[Maker, ...] = (
    *map(wire_message, KINDS),
    contract,
    contract_at_an_agent,
    request_at_an_agent,
    descriptor,
    answer,
    answer_of_a_node,
    announcements,
    encapsulations,
    head_at_the_notary,
    countersignature_at_a_site,
    known_head_at_a_site,
    chunks,
)
