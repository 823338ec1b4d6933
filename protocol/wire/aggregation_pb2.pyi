from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Announcement(_message.Message):
    __slots__ = ("protocol", "session", "site", "x25519", "mlkem", "signature")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    X25519_FIELD_NUMBER: _ClassVar[int]
    MLKEM_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: str
    site: str
    x25519: bytes
    mlkem: bytes
    signature: bytes
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[str] = ..., site: _Optional[str] = ..., x25519: _Optional[bytes] = ..., mlkem: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Announcements(_message.Message):
    __slots__ = ("protocol", "announcements", "known_head")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENTS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_HEAD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    announcements: _containers.RepeatedCompositeFieldContainer[Announcement]
    known_head: Head
    def __init__(self, protocol: _Optional[int] = ..., announcements: _Optional[_Iterable[_Union[Announcement, _Mapping]]] = ..., known_head: _Optional[_Union[Head, _Mapping]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("seq", "hash", "signature")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    hash: str
    signature: bytes
    def __init__(self, seq: _Optional[int] = ..., hash: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Countersignature(_message.Message):
    __slots__ = ("time", "signature")
    TIME_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    time: float
    signature: bytes
    def __init__(self, time: _Optional[float] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Encapsulation(_message.Message):
    __slots__ = ("sender", "receiver", "ciphertext", "signature")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    sender: str
    receiver: str
    ciphertext: bytes
    signature: bytes
    def __init__(self, sender: _Optional[str] = ..., receiver: _Optional[str] = ..., ciphertext: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Encapsulations(_message.Message):
    __slots__ = ("session", "encapsulations")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ENCAPSULATIONS_FIELD_NUMBER: _ClassVar[int]
    session: str
    encapsulations: _containers.RepeatedCompositeFieldContainer[Encapsulation]
    def __init__(self, session: _Optional[str] = ..., encapsulations: _Optional[_Iterable[_Union[Encapsulation, _Mapping]]] = ...) -> None: ...

class ReadyRequest(_message.Message):
    __slots__ = ("session", "refusal", "head")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    session: str
    refusal: str
    head: Head
    def __init__(self, session: _Optional[str] = ..., refusal: _Optional[str] = ..., head: _Optional[_Union[Head, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("go", "finished", "countersignature")
    GO_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    go: Go
    finished: Finished
    countersignature: Countersignature
    def __init__(self, go: _Optional[_Union[Go, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., countersignature: _Optional[_Union[Countersignature, _Mapping]] = ...) -> None: ...

class Go(_message.Message):
    __slots__ = ("step", "attempt", "survivors", "adapter_digest")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    step: int
    attempt: int
    survivors: _containers.RepeatedScalarFieldContainer[str]
    adapter_digest: str
    def __init__(self, step: _Optional[int] = ..., attempt: _Optional[int] = ..., survivors: _Optional[_Iterable[str]] = ..., adapter_digest: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class AdapterRequest(_message.Message):
    __slots__ = ("session", "digest", "first_sequence")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    session: str
    digest: str
    first_sequence: int
    def __init__(self, session: _Optional[str] = ..., digest: _Optional[str] = ..., first_sequence: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("sequence", "words", "checksum")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    words: bytes
    checksum: int
    def __init__(self, sequence: _Optional[int] = ..., words: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("session", "step", "attempt", "first_sequence")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    session: str
    step: int
    attempt: int
    first_sequence: int
    def __init__(self, session: _Optional[str] = ..., step: _Optional[int] = ..., attempt: _Optional[int] = ..., first_sequence: _Optional[int] = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: Chunk
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UploadProgress(_message.Message):
    __slots__ = ("next_sequence",)
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    next_sequence: int
    def __init__(self, next_sequence: _Optional[int] = ...) -> None: ...

class ConsiderRequest(_message.Message):
    __slots__ = ("protocol", "contract", "signature", "challenge")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    contract: bytes
    signature: bytes
    challenge: bytes
    def __init__(self, protocol: _Optional[int] = ..., contract: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., challenge: _Optional[bytes] = ...) -> None: ...

class ConsiderReply(_message.Message):
    __slots__ = ("site", "refusal", "signature", "again")
    SITE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    site: str
    refusal: str
    signature: bytes
    again: int
    def __init__(self, site: _Optional[str] = ..., refusal: _Optional[str] = ..., signature: _Optional[bytes] = ..., again: _Optional[int] = ...) -> None: ...

class TakePartRequest(_message.Message):
    __slots__ = ("protocol", "contract", "descriptor", "signature")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    contract: bytes
    descriptor: bytes
    signature: bytes
    def __init__(self, protocol: _Optional[int] = ..., contract: _Optional[bytes] = ..., descriptor: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class TakePartReply(_message.Message):
    __slots__ = ("steps", "reason")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    steps: int
    reason: str
    def __init__(self, steps: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
