"""Every field of every message has a limit, and both ends refuse what exceeds one."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor as MessageDescriptor
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hortus.protocol.descriptor import Descriptor
from hortus.protocol.limits import (
    LIMITS,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    check_version,
    checked,
)
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError, in_one_line

MESSAGES = wire.DESCRIPTOR.message_types_by_name.values()
FIELDS = {f"{message.name}.{field.name}": field for message in MESSAGES for field in message.fields}
TEXT, BYTES, MESSAGE = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
)


def test_every_field_has_a_limit_and_every_limit_a_field() -> None:
    assert set(LIMITS) == set(FIELDS), "give new fields a limit in protocol/limits.py"


@pytest.mark.parametrize("name", FIELDS)
def test_a_limit_fits_its_field(name: str) -> None:
    field, limit = FIELDS[name], LIMITS[name]
    assert (limit.most is None) == (field.type == MESSAGE)
    assert (limit.items > 1) == field.is_repeated


def value(field: FieldDescriptor, most: int | None) -> Any:
    if field.type == MESSAGE:
        return GetMessageClass(field.message_type)()
    assert most is not None
    return {TEXT: "x", BYTES: b"x"}[field.type] * most if field.type in (TEXT, BYTES) else most


def message(field: FieldDescriptor, one: Any, items: int) -> Message:
    built: Message = GetMessageClass(field.containing_type)()
    if field.is_repeated:
        getattr(built, field.name).extend([one] * items)
    elif field.type == MESSAGE:
        getattr(built, field.name).SetInParent()
    else:
        setattr(built, field.name, one)
    return built


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_at_its_limit_is_taken_and_one_beyond_it_refused(name: str) -> None:
    field, limit = FIELDS[name], LIMITS[name]
    full = message(field, value(field, limit.most), limit.items)
    assert checked(full) is full
    too_much = []
    if field.is_repeated:
        too_much.append(message(field, value(field, 0), limit.items + 1))
    if limit.most is not None and limit.most < 2**32 - 1:
        too_much.append(message(field, value(field, limit.most + 1), 1))
    for one in too_much:
        with pytest.raises(ProtocolError, match=name):
            checked(one)


def test_a_limit_holds_within_a_nested_message() -> None:
    nested = wire.Turn(finished=wire.Finished(reason="x" * 2001))
    with pytest.raises(ProtocolError, match=r"Finished\.reason has 2001 bytes, the limit is 2000"):
        checked(nested)
    many = wire.Announcements(announcements=[wire.Announcement(site="x" * 64)])
    with pytest.raises(ProtocolError, match=r"Announcement\.site"):
        checked(many)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1.0, 2.0**37 + 1])
def test_a_time_that_no_calendar_has_is_refused(time: float) -> None:
    """Kept with the ledger, it would break `hortus status` for good."""
    with pytest.raises(ProtocolError, match=r"Countersignature\.time"):
        checked(wire.Turn(countersignature=wire.Countersignature(time=time)))
    checked(wire.Turn(countersignature=wire.Countersignature(time=2.0**37)))
    assert datetime.fromtimestamp(2.0**37, UTC).year == 6325


def test_text_is_measured_in_bytes() -> None:
    with pytest.raises(ProtocolError, match="126 bytes"):
        checked(wire.Announcement(site="é" * 63))


def test_a_field_of_another_version_is_refused() -> None:
    foreign = wire.Finished.FromString(wire.TakePartReply(reason="field 2").SerializeToString())
    with pytest.raises(ProtocolError, match="Finished has fields that this version lacks"):
        checked(foreign)


def largest(message: MessageDescriptor) -> int:
    """An upper bound of a message's bytes: 16 for each tag, length or number."""
    total = 0
    for field in message.fields:
        limit = LIMITS[f"{message.name}.{field.name}"]
        sized = field.type in (TEXT, BYTES)
        one = largest(field.message_type) if field.type == MESSAGE else (limit.most or 0) * sized
        total += limit.items * (one + 16)
    return total


@pytest.mark.parametrize("built", MESSAGES, ids=lambda m: m.name)
def test_no_legal_message_exceeds_what_grpc_takes(built: MessageDescriptor) -> None:
    assert largest(built) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1])
def test_another_version_is_refused_with_both_numbers(version: int) -> None:
    with pytest.raises(
        ProtocolError, match=f"protocol {version}, this program uses {PROTOCOL_VERSION}"
    ):
        check_version(version)
    fields = {
        "run": "1" * 32,
        "session": "2" * 32,
        "contract": "3" * 64,
        "cohort": ("a", "b"),
        "first_round": 0,
        "dimension": 1,
        "scale": 1,
    }
    with pytest.raises(ValueError, match=f"the descriptor is for protocol {version}"):
        Descriptor.model_validate(fields | {"protocol": version})


@pytest.mark.parametrize("character", ["x", "é", "𝄞"])
def test_what_is_said_in_one_line_always_fits_the_wire(character: str) -> None:
    checked(wire.Finished(reason=in_one_line(character * 5000)))
