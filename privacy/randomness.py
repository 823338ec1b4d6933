"""Cryptographic randomness for sampling, rounding and noise: AES-256 in counter mode."""

import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

_KEY_BYTES = 32
_UNIT = np.float64(2.0**-53)


class Stream:
    """A keystream of uniform bits; every call takes the next ones.

    Args:
        key: 32 bytes, used for no other stream.
    """

    def __init__(self, key: bytes) -> None:
        self._keystream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uint64(self, size: int) -> NDArray[np.uint64]:
        """Returns independent uniform words, uint64[size]."""
        words = np.zeros(size, dtype="<u8")
        self._keystream.update_into(words.data.cast("B"), words.data.cast("B"))
        return words.astype(np.uint64, copy=False)

    def uniform53(self, size: int) -> NDArray[np.float64]:
        """Returns uniform multiples of 2⁻⁵³ in [0, 1), float64[size]."""
        return (self.uint64(size) >> np.uint64(11)).astype(np.float64) * _UNIT

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        """Returns independent coins, bool[size], each true with `probability`.

        The probability is taken as the multiple of 2⁻⁵³ at or below it: a sampling rate is never
        larger than the accountant's.
        """
        coins: NDArray[np.bool_] = self.uniform53(size) < np.floor(probability / _UNIT) * _UNIT
        return coins


class RandomSource(Protocol):
    """Where streams come from."""

    def stream(self, *context: str | int) -> Stream:
        """Returns the stream of a purpose, such as ("noise", step, attempt)."""
        ...


class SystemRandomness:
    """Fresh streams, each keyed by the operating system; the context makes no difference."""

    def stream(self, *context: str | int) -> Stream:  # noqa: ARG002
        """Returns a stream that has never been and will never be again."""
        return Stream(os.urandom(_KEY_BYTES))


class UnsafeSeededRandomness:
    """Repeatable streams for simulations and tests: whoever knows the seed can subtract the noise.

    Args:
        seed: Any non-negative integer below 2⁶⁴.
        site: Different sites have different streams.
    """

    def __init__(self, seed: int, site: str) -> None:
        self._secret = seed.to_bytes(8, "big") + site.encode()

    def stream(self, *context: str | int) -> Stream:
        """Returns the one stream of this context; different contexts are independent."""
        parts = [f"{type(part).__name__}:{part}".encode() for part in context]
        info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        kdf = HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"hortus/v1/seeded" + info)
        return Stream(kdf.derive(self._secret))
