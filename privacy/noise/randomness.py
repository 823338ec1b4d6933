"""Cryptographic randomness for sampling, rounding and noise: AES-256 in counter mode."""

import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from hortus.privacy.secure_sum.transcript import derive, frame

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

    def uniform(self, size: int, bits: int) -> NDArray[np.float64]:
        """Returns uniform multiples of 2^−bits in [0, 1), float64[size]; at most 53 bits."""
        return (self.uint64(size) >> np.uint64(64 - bits)).astype(np.float64) * 2.0**-bits

    def uniform53(self, size: int) -> NDArray[np.float64]:
        """Returns uniform multiples of 2⁻⁵³ in [0, 1), float64[size]."""
        return self.uniform(size, bits=53)

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

    def bound(self, told: bytes) -> "RandomSource":
        """Returns the source to use for a step of which the server said this."""
        ...


class SessionRandomness:
    """The streams of a site in one session, from one secret that the operating system draws for it.

    A virtual machine may be restored to the middle of a step, and asked for it again. It then has the secret
    that it had, like the masks' keys, and so sends the same vector under the same masks: no second one with
    other noise, whose difference to the first would be of one share. Made before the session's keys are, so
    that whoever is restored to before it has other keys as well.

    Args:
        secret: 32 bytes for this session; None: from the operating system.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = os.urandom(_KEY_BYTES) if secret is None else secret

    def stream(self, *context: str | int) -> Stream:
        """Returns the one stream of this context, which nobody else can know."""
        return Stream(_derived(self._secret, b"hortus/v1/session", context))

    def bound(self, told: bytes) -> "SessionRandomness":
        """Returns a source that shares no stream with that of anything else that was told.

        Whoever is asked for the same step from another adapter draws other noise: the same would show by how
        much the gradients differ.
        """
        return SessionRandomness(derive(self._secret, frame(b"hortus/v1/told", told)))


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
        return Stream(_derived(self._secret, b"hortus/v1/seeded", context))

    def bound(self, told: bytes) -> "UnsafeSeededRandomness":  # noqa: ARG002
        """Returns itself: a simulation and a deployment of one plan and seed have the same bits."""
        return self


def _derived(secret: bytes, purpose: bytes, context: tuple[str | int, ...]) -> bytes:
    parts = [f"{type(part).__name__}:{part}".encode() for part in context]
    info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return derive(secret, purpose + info)
