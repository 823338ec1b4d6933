"""What a ledger's entries say, and how each is encoded, hashed and signed.

An entry's content is one canonical JSON object: what was recorded, its number, its time, and the
hash of the entry before. Its hash is the SHA-256 of those bytes, so what is stored is what is
signed. Floats are in C's hexadecimal notation, which is exact.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Self

from hortus.privacy.ledger.charges import Charge, Charged, Level, Scope
from hortus.privacy.ledger.decisions import (
    Admitted,
    Approved,
    Consent,
    Declined,
    Disjoint,
    Frozen,
    Granted,
    Unfrozen,
    Withdrawn,
)
from hortus.privacy.ledger.fields import check_hex, check_range
from hortus.protocol.identity import Identity, is_signed
from hortus.runtime.canonical import canonical_json

SIGNATURE_CONTEXT = "ledger entry"
GENESIS = "0" * 64

_FORMAT = "hortus/v4/ledger"
_LATEST = 253_402_300_800.0  # the year 10000
_MOST_ENTRIES = 2**40

Body = Charged | Granted | Frozen | Unfrozen | Disjoint | Consent | Declined


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger's entry, as it is stored.

    Attributes:
        seq: Number, from 1.
        time: Seconds since the epoch.
        body: What it records.
        previous_hash: Hash of the entry before; `GENESIS` for the first.
        content: Canonical JSON of everything above.
        hash: SHA-256 of `content`, hexadecimal.
        signature: The site's Ed25519 signature of the hash.
    """

    seq: int
    time: float
    body: Body
    previous_hash: str
    content: str
    hash: str
    signature: bytes

    def __post_init__(self) -> None:
        check_range("seq", self.seq, 1, _MOST_ENTRIES)
        check_range("time", self.time, 0, _LATEST)
        check_hex("previous_hash", self.previous_hash, 64)
        check_hex("hash", self.hash, 64)

    @classmethod
    def make(
        cls, seq: int, time: float, body: Body, previous_hash: str, identity: Identity
    ) -> Self:
        """Encodes and signs a new entry."""
        content = _content(seq, time, body, previous_hash)
        hash_ = content_hash(content)
        signature = identity.sign(SIGNATURE_CONTEXT, bytes.fromhex(hash_))
        return cls(seq, float(time), body, previous_hash, content, hash_, signature)

    @classmethod
    def parse(cls, content: str, hash_: str, signature: bytes) -> Self:
        """Reads what is stored; chain, hash and signature are checked elsewhere.

        Raises:
            ValueError: The content is not the encoding of an entry.
        """
        try:
            value = json.loads(content)
            if canonical_json(value).decode() != content:
                raise ValueError("the content is not in canonical form")
            body = _read_body(value)
            return cls(
                seq=_whole(value["seq"]),
                time=_number(value["time"]),
                body=body,
                previous_hash=_text(value["previous_hash"]),
                content=content,
                hash=_text(hash_),
                signature=bytes(signature),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"the content is not an entry: {error}") from error

    def is_signed_by(self, public_key: bytes) -> bool:
        """Returns whether the raw Ed25519 key signed the entry's hash."""
        try:
            message = bytes.fromhex(self.hash)
        except ValueError:
            return False
        return is_signed(public_key, SIGNATURE_CONTEXT, message, self.signature)


def content_hash(content: str) -> str:
    """Returns the SHA-256 of an entry's content, hexadecimal."""
    return hashlib.sha256(content.encode()).hexdigest()


def _content(seq: int, time: float, body: Body, previous_hash: str) -> str:
    value = {
        "format": _FORMAT,
        "seq": seq,
        "time": float(time).hex(),
        "kind": body.kind,
        body.kind: _encode(body),
        "previous_hash": previous_hash,
    }
    return canonical_json(value).decode()


def _encode(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
    return value


def _read_body(value: Mapping[str, Any]) -> Body:
    kind = value["kind"]
    _only(value, {"format", "seq", "time", "kind", kind, "previous_hash"})
    if value["format"] != _FORMAT or kind not in _READERS:
        raise ValueError(f"format {value['format']!r}, kind {kind!r} is unknown here")
    body: Body = _READERS[kind](value[kind])
    return body


def _read_charged(value: Mapping[str, Any]) -> Charged:
    _only(value, {"charge", "account", "joins", "levels"})
    return Charged(
        _decode(Charge, value["charge"]),
        _text(value["account"]),
        _texts(value["joins"]),
        tuple(_decode(Level, level) for level in value["levels"]),
    )


def _decode(kind: type[Any], value: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of that kind
    """Reads a dataclass of texts, whole numbers, floats and scopes."""
    readers = _FIELDS[kind]
    _only(value, readers.keys())
    return kind(*[read(value[name]) for name, read in readers.items()])


# Kinds whose fields are texts, whole numbers, floats and lists of texts.
_FLAT = (Granted, Frozen, Unfrozen, Disjoint, Approved, Admitted, Withdrawn, Declined)
_READERS: Mapping[str, Any] = {
    Charged.kind: _read_charged,
    **{kind.kind: lambda value, kind=kind: _decode(kind, value) for kind in _FLAT},
}


def _only(value: Mapping[str, Any], names: Set[str]) -> None:
    if value.keys() != names:
        raise ValueError(f"fields {sorted(value.keys() ^ names)} are missing or unknown")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} was found where a text was expected")
    # A run's entries share most of their texts: a long ledger's fit in memory once.
    return sys.intern(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(map(_text, value))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a {type(value).__name__} was found where a whole number was expected")
    return value


# Most numbers of a run are the same in every entry.
@lru_cache(maxsize=4096)
def _number(value: object) -> float:
    number = float.fromhex(_text(value))
    if number.hex() != value:
        raise ValueError(f"{value!r} is not the exact form of a number")
    return number


_PARSERS: Mapping[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _whole,
    float: _number,
    tuple[str, ...]: _texts,
    Scope: Scope,
}
_FIELDS: Mapping[type[Any], Mapping[str, Callable[[Any], Any]]] = {
    kind: {field.name: _PARSERS[field.type] for field in fields(kind)}
    for kind in (Charge, Level, *_FLAT)
}
