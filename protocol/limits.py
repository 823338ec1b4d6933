"""The version of the wire format, and a limit on every field of every message.

Both ends call `checked` on every message that arrives. Vectors' chunks are checked by
`vectors.unpack`, against the same table, without copying their words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from hortus.runtime.errors import ProtocolError

PROTOCOL_VERSION = 1

MAX_SITES = 1000  # in a session
MAX_STEPS = 2**31 - 1
MAX_WORDS = 2**31 - 1  # parameters in a vector
CHUNK_WORDS = 2**18  # 1 MiB
MAX_CHUNKS = -(-MAX_WORDS // CHUNK_WORDS)
MAX_MESSAGE_BYTES = 4 * 2**20

X25519_BYTES = 32
MLKEM_PUBLIC_BYTES = 1184
MLKEM_CIPHERTEXT_BYTES = 1088
SIGNATURE_BYTES = 64
_SITE_BYTES = 63
_IDENTIFIER_BYTES = 32  # 16 bytes, hexadecimal
_DIGEST_BYTES = 64  # 32 bytes, hexadecimal
_CHALLENGE_BYTES = 32
_SENTENCE_BYTES = 2000  # what errors.in_one_line leaves of any text
_CONTRACT_BYTES = 2**20
_DESCRIPTOR_BYTES = 2**17
_LATEST_TIME = 2**37  # seconds since the epoch, in the year 6325; Python's calendar ends in 9999
_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1

MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a field may hold.

    Attributes:
        most: Largest number, or most bytes of a string; of each item, where the field is repeated.
            None for a message, whose own fields have limits.
        items: Most items of a repeated field.
    """

    most: int | None
    items: int = 1


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "Announcement.protocol": Limit(_UINT32),
        "Announcement.session": Limit(_IDENTIFIER_BYTES),
        "Announcement.site": Limit(_SITE_BYTES),
        "Announcement.x25519": Limit(X25519_BYTES),
        "Announcement.mlkem": Limit(MLKEM_PUBLIC_BYTES),
        "Announcement.signature": Limit(SIGNATURE_BYTES),
        "Announcements.protocol": Limit(_UINT32),
        "Announcements.announcements": Limit(None, items=MAX_SITES),
        "Announcements.known_head": Limit(None),
        "Head.seq": Limit(MAX_STEPS),
        "Head.hash": Limit(_DIGEST_BYTES),
        "Head.signature": Limit(SIGNATURE_BYTES),
        "Countersignature.time": Limit(_LATEST_TIME),
        "Countersignature.signature": Limit(SIGNATURE_BYTES),
        "Encapsulation.sender": Limit(_SITE_BYTES),
        "Encapsulation.receiver": Limit(_SITE_BYTES),
        "Encapsulation.ciphertext": Limit(MLKEM_CIPHERTEXT_BYTES),
        "Encapsulation.signature": Limit(SIGNATURE_BYTES),
        "Encapsulations.session": Limit(_IDENTIFIER_BYTES),
        "Encapsulations.encapsulations": Limit(None, items=MAX_SITES),
        "ReadyRequest.session": Limit(_IDENTIFIER_BYTES),
        "ReadyRequest.refusal": Limit(_SENTENCE_BYTES),
        "ReadyRequest.head": Limit(None),
        "Turn.go": Limit(None),
        "Turn.finished": Limit(None),
        "Turn.countersignature": Limit(None),
        "Go.step": Limit(MAX_STEPS),
        "Go.attempt": Limit(MAX_SITES),  # each attempt but the last loses a site
        "Go.survivors": Limit(_SITE_BYTES, items=MAX_SITES),
        "Go.adapter_digest": Limit(_DIGEST_BYTES),
        "Finished.reason": Limit(_SENTENCE_BYTES),
        "AdapterRequest.session": Limit(_IDENTIFIER_BYTES),
        "AdapterRequest.digest": Limit(_DIGEST_BYTES),
        "AdapterRequest.first_sequence": Limit(MAX_CHUNKS - 1),
        "Chunk.sequence": Limit(MAX_CHUNKS - 1),
        "Chunk.words": Limit(4 * CHUNK_WORDS),
        "Chunk.checksum": Limit(_UINT64),
        "UploadHeader.session": Limit(_IDENTIFIER_BYTES),
        "UploadHeader.step": Limit(MAX_STEPS),
        "UploadHeader.attempt": Limit(MAX_SITES),
        "UploadHeader.first_sequence": Limit(MAX_CHUNKS - 1),
        "UploadPart.header": Limit(None),
        "UploadPart.chunk": Limit(None),
        "UploadProgress.next_sequence": Limit(MAX_CHUNKS),
        "ConsiderRequest.protocol": Limit(_UINT32),
        "ConsiderRequest.contract": Limit(_CONTRACT_BYTES),
        "ConsiderRequest.signature": Limit(SIGNATURE_BYTES),
        "ConsiderRequest.challenge": Limit(_CHALLENGE_BYTES),
        "ConsiderReply.site": Limit(_SITE_BYTES),
        "ConsiderReply.refusal": Limit(_SENTENCE_BYTES),
        "ConsiderReply.signature": Limit(SIGNATURE_BYTES),
        "ConsiderReply.again": Limit(_UINT32),
        "TakePartRequest.protocol": Limit(_UINT32),
        "TakePartRequest.contract": Limit(_CONTRACT_BYTES),
        "TakePartRequest.descriptor": Limit(_DESCRIPTOR_BYTES),
        "TakePartRequest.signature": Limit(SIGNATURE_BYTES),
        "TakePartReply.steps": Limit(MAX_STEPS),
        "TakePartReply.reason": Limit(_SENTENCE_BYTES),
    }
)


def checked(message: MessageT) -> MessageT:
    """Returns a message from another party if every field is within its limit.

    Raises:
        ProtocolError: A field exceeds its limit, or this version does not know it; the error names the field.
    """
    if len(UnknownFieldSet(message)):
        raise ProtocolError(f"a {message.DESCRIPTOR.name} has fields that this version lacks")
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        limit = LIMITS[name]
        values = value if field.is_repeated else (value,)
        if len(values) > limit.items:
            raise ProtocolError(f"{name} has {len(values)} items, the limit is {limit.items}")
        for one in values:
            _check(name, limit, one)
    return message


def check_version(told: int) -> None:
    """Raises ProtocolError unless the other side speaks this version of the protocol."""
    if told != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the other side uses protocol {told}, this program uses {PROTOCOL_VERSION}",
            remedy="Update the older of the two.",
        )


def _check(name: str, limit: Limit, value: Message | float | str | bytes) -> None:
    if isinstance(value, Message):
        checked(value)
        return
    assert limit.most is not None  # noqa: S101 - tests walk the whole table
    if isinstance(value, int | float):
        if not 0 <= value <= limit.most:  # a NaN is not
            raise ProtocolError(f"{name} is {value}, the limit is {limit.most}")
        return
    size = len(value.encode() if isinstance(value, str) else value)
    if size > limit.most:
        raise ProtocolError(f"{name} has {size} bytes, the limit is {limit.most}")
