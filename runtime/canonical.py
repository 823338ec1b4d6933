"""One byte string for one value, so that hashes and signatures of equal values are equal; one value for a key."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical_json(value: Mapping[str, object]) -> bytes:
    """Encodes a JSON-able mapping with sorted keys, no blanks and no NaN, as UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Mapping[str, object]) -> str:
    """Returns the SHA-256 of the canonical encoding, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class KeyTwiceError(Exception):
    """An object of JSON has a key twice: nobody can say which value counts."""


def distinct_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON, as an `object_pairs_hook`.

    Raises:
        KeyTwiceError: It holds the key that comes twice.
    """
    distinct: dict[str, Any] = {}
    for key, value in pairs:
        if key in distinct:
            raise KeyTwiceError(key)
        distinct[key] = value
    return distinct
