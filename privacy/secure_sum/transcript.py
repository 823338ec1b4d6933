"""Encodings and derivations that the key exchange and the masks share."""

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def number(value: int) -> bytes:
    """Encodes a number below 2⁶⁴ as 8 bytes."""
    return value.to_bytes(8, "big")


def frame(*parts: bytes) -> bytes:
    """Concatenates parts, each after its length, so that no two lists of parts look alike."""
    return b"".join(number(len(part)) + part for part in parts)


def hash_of(*parts: bytes) -> bytes:
    """Returns the SHA-256 of the framed parts, 32 bytes."""
    return hashlib.sha256(frame(*parts)).digest()


def derive(secret: bytes, info: bytes) -> bytes:
    """Returns 32 bytes of HKDF-SHA256 (RFC 5869) without a salt."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
