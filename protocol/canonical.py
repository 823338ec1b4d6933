"""One byte string for one value, so that hashes and signatures of equal values are equal."""

import hashlib
import json
from collections.abc import Mapping


def canonical_json(value: Mapping[str, object]) -> bytes:
    """Encodes a JSON-able mapping with sorted keys, no blanks and no NaN, as UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Mapping[str, object]) -> str:
    """Returns the SHA-256 of the canonical encoding, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
