"""The secure sum: a server adds vectors of a cohort and learns their sum alone.

Each pair of sites holds a secret that the server does not; from it, for each step, both expand the
same mask, which one adds and the other subtracts (Bonawitz et al. 2017, without secret sharing:
when a site drops out, the sum is formed anew). Three verbs: announce, agree (by way of
encapsulate), mask. docs/protocol.md has the argument, docs/threat-model.md the assumptions.

A pair's secret comes from X25519 and ML-KEM-768 (FIPS 203) together: it holds as long as one does.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from hortus.protocol.errors import ProtocolError, Refused, UsageError
from hortus.protocol.identity import Roster, SiteIdentity
from hortus.protocol.limits import MLKEM_CIPHERTEXT_BYTES, MLKEM_PUBLIC_BYTES, X25519_BYTES

DIGEST_BYTES = 32

_ANNOUNCEMENT = "secure-sum announcement"
_ENCAPSULATION = "secure-sum encapsulation"
_PAIR_INFO = b"hortus/v1/secure-sum pair"
_STEP_INFO = b"hortus/v1/secure-sum step"
_CHUNK_WORDS = 2**16  # 256 KiB: a chunk and its keystream stay in a core's cache
_ZERO_COUNTER = bytes(16)  # each key encrypts one stream only


@dataclass(frozen=True, slots=True)
class Announcement:
    """A site's ephemeral public keys for one session, signed.

    Attributes:
        site: Who.
        x25519: Raw X25519 public key, 32 bytes.
        mlkem: Raw ML-KEM-768 public key, 1184 bytes.
        signature: Ed25519, over the descriptor's digest, the site and both keys.
    """

    site: str
    x25519: bytes
    mlkem: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """What one site says to one other about a session's keys, signed.

    Attributes:
        sender: Who.
        receiver: To whom.
        ciphertext: ML-KEM-768, 1088 bytes, when the sender sorts before the receiver; else empty.
        signature: Ed25519, over the descriptor's digest, both sites, all announcements that the
            sender saw and the ciphertext.
    """

    sender: str
    receiver: str
    ciphertext: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class StepView:
    """What a site was told about a step; masks cancel only between sites that were told the same.

    Attributes:
        step: Number of the secure sum in the session.
        attempt: Number of the attempt at it.
        survivors: The sites whose vectors are summed, sorted.
        adapter_digest: SHA-256 of the adapter that the step starts from, 32 bytes.
    """

    step: int
    attempt: int
    survivors: tuple[str, ...]
    adapter_digest: bytes


class _State(Enum):
    ANNOUNCED = "announced"
    ENCAPSULATED = "encapsulated"
    FINISHED = "finished"


class KeyExchange:
    """One site's side of one session's key exchange; each verb once, in order.

    `announce`, then `encapsulate` what everybody announced, then `agree` on what everybody
    encapsulated. An object that has raised is finished.

    Attributes:
        announcement: What the other sites must get.
    """

    def __init__(
        self,
        identity: SiteIdentity,
        roster: Roster,
        cohort: tuple[str, ...],
        descriptor_digest: bytes,
    ) -> None:
        """Use `announce`."""
        self._identity = identity
        self._roster = roster
        self._cohort = cohort
        self._descriptor_digest = descriptor_digest
        self._x25519 = X25519PrivateKey.generate()
        self._mlkem = MLKEM768PrivateKey.generate()
        self._state = _State.ANNOUNCED
        self._announcements: dict[str, Announcement] = {}
        self._announced = b""
        self._encapsulated: dict[str, tuple[bytes, bytes]] = {}
        x25519 = self._x25519.public_key().public_bytes_raw()
        mlkem = self._mlkem.public_key().public_bytes_raw()
        signed = _signed_announcement(descriptor_digest, identity.site, x25519, mlkem)
        signature = identity.sign(_ANNOUNCEMENT, signed)
        self.announcement = Announcement(identity.site, x25519, mlkem, signature)

    @classmethod
    def announce(
        cls,
        identity: SiteIdentity,
        roster: Roster,
        cohort: tuple[str, ...],
        descriptor_digest: bytes,
    ) -> Self:
        """Makes this site's ephemeral keys for a session.

        Args:
            identity: Signs them.
            roster: The pinned keys of the others.
            cohort: The session's sites, sorted, this one among them.
            descriptor_digest: SHA-256 of the session's descriptor, 32 bytes.

        Raises:
            ProtocolError: The cohort is not sorted and distinct, not all pinned here, or without
                this site.
            UsageError: The roster has another key for this site, so that nobody would believe it.
        """
        _check_digest(descriptor_digest)
        _check_members(cohort, "cohort", identity.site, among=roster.sites)
        if roster.sites[identity.site] != identity.public_key_bytes:
            raise UsageError("the roster has another key for this site", where=identity.site)
        return cls(identity, roster, cohort, descriptor_digest)

    def encapsulate(self, announcements: Iterable[Announcement]) -> tuple[Encapsulation, ...]:
        """Checks what everybody announced and sends each later site a fresh secret.

        Args:
            announcements: The whole cohort's, this site's among them.

        Returns:
            One for each other site.

        Raises:
            ProtocolError: One is missing, foreign, repeated, altered or not signed by its site.
        """
        self._advance(_State.ANNOUNCED)
        self._announcements = _by_site(announcements, lambda one: one.site, self._cohort)
        if self._announcements[self._identity.site] != self.announcement:
            raise ProtocolError("its own announcement came back altered", where=self._identity.site)
        for announcement in self._announcements.values():
            self._verify_announcement(announcement)
        self._announced = _hash(*(_encoded(one) for one in self._announcements.values()))
        sent = tuple(self._encapsulate_to(peer) for peer in self._peers())
        self._state = _State.ENCAPSULATED
        return sent

    def agree(self, encapsulations: Iterable[Encapsulation], *, min_cohort: int) -> "MaskGenerator":
        """Checks what everybody encapsulated and derives a secret with each peer.

        Args:
            encapsulations: What all others sent to this site.
            min_cohort: Fewest sites that this site will ever mask for.

        Raises:
            ProtocolError: One is missing, foreign, repeated, altered, not signed by its site, or
                made for other announcements than this site saw.
        """
        self._advance(_State.ENCAPSULATED)
        received = _by_site(encapsulations, lambda one: one.sender, self._peers())
        for one in received.values():
            self._verify_encapsulation(one)
        return MaskGenerator(
            site=self._identity.site,
            cohort=self._cohort,
            descriptor_digest=self._descriptor_digest,
            secrets={peer: self._pair_secret(peer, one) for peer, one in received.items()},
            min_cohort=min_cohort,
        )

    def _advance(self, due: _State) -> None:
        """Leaves the object finished unless the verb that called it comes to its end."""
        if self._state is not due:
            raise RuntimeError(f"the key exchange is {self._state.value}, not {due.value}")
        self._state = _State.FINISHED

    def _peers(self) -> tuple[str, ...]:
        return tuple(site for site in self._cohort if site != self._identity.site)

    def _verify_announcement(self, one: Announcement) -> None:
        if len(one.x25519) != X25519_BYTES or len(one.mlkem) != MLKEM_PUBLIC_BYTES:
            raise ProtocolError("its public keys have a wrong length", where=one.site)
        signed = _signed_announcement(self._descriptor_digest, one.site, one.x25519, one.mlkem)
        self._roster.verify(one.site, _ANNOUNCEMENT, signed, one.signature)

    def _encapsulate_to(self, peer: str) -> Encapsulation:
        site, ciphertext = self._identity.site, b""
        if site < peer:
            try:
                key = MLKEM768PublicKey.from_public_bytes(self._announcements[peer].mlkem)
            except ValueError as error:
                raise ProtocolError("its ML-KEM public key is malformed", where=peer) from error
            secret, ciphertext = key.encapsulate()
            self._encapsulated[peer] = secret, ciphertext
        signed = self._signed_encapsulation(site, peer, ciphertext)
        signature = self._identity.sign(_ENCAPSULATION, signed)
        return Encapsulation(site, peer, ciphertext, signature)

    def _verify_encapsulation(self, one: Encapsulation) -> None:
        if one.receiver != self._identity.site:
            raise ProtocolError("its encapsulation is for another site", where=one.sender)
        due = MLKEM_CIPHERTEXT_BYTES if one.sender < one.receiver else 0
        if len(one.ciphertext) != due:
            raise ProtocolError("its ciphertext has a wrong length", where=one.sender)
        signed = self._signed_encapsulation(one.sender, one.receiver, one.ciphertext)
        self._roster.verify(one.sender, _ENCAPSULATION, signed, one.signature)

    def _signed_encapsulation(self, sender: str, receiver: str, ciphertext: bytes) -> bytes:
        return _frame(
            self._descriptor_digest,
            sender.encode(),
            receiver.encode(),
            self._announced,
            ciphertext,
        )

    def _pair_secret(self, peer: str, received: Encapsulation) -> bytes:
        if peer in self._encapsulated:
            kem, ciphertext = self._encapsulated[peer]
        else:
            ciphertext = received.ciphertext
            kem = self._mlkem.decapsulate(ciphertext)
        public = X25519PublicKey.from_public_bytes(self._announcements[peer].x25519)
        try:
            shared = self._x25519.exchange(public)
        except ValueError as error:  # an all-zero secret (RFC 7748, section 6.1)
            raise ProtocolError("its X25519 public key has a small order", where=peer) from error
        first, second = sorted((self._identity.site, peer))
        transcript = _hash(
            self._descriptor_digest,
            _encoded(self._announcements[first]),
            _encoded(self._announcements[second]),
            ciphertext,
        )
        return _derive(shared + kem, _frame(_PAIR_INFO, transcript))


class MaskGenerator:
    """A site's masks in one session; made by `KeyExchange.agree`.

    Args:
        site: This site.
        cohort: The session's sites, sorted.
        descriptor_digest: SHA-256 of the session's descriptor, 32 bytes.
        secrets: The secret with each other site, 32 bytes.
        min_cohort: Fewest sites to mask for.
    """

    def __init__(
        self,
        *,
        site: str,
        cohort: tuple[str, ...],
        descriptor_digest: bytes,
        secrets: Mapping[str, bytes],
        min_cohort: int,
    ) -> None:
        self._site = site
        self._cohort = cohort
        self._descriptor_digest = descriptor_digest
        self._secrets = dict(secrets)
        self._min_cohort = min_cohort
        self._used: set[tuple[int, int]] = set()

    def check(self, view: StepView) -> None:
        """Raises what `mask` would raise for this view; ask before paying for the step.

        Raises:
            ProtocolError: The view is malformed, or does not include this site.
            Refused: Too few sites would be summed, or this attempt has been masked for before.
        """
        where = f"step {view.step} attempt {view.attempt}"
        if not (0 <= view.step < 2**63 and 0 <= view.attempt < 2**63):
            raise ProtocolError("the numbers are out of range", where=where)
        _check_digest(view.adapter_digest)
        _check_members(view.survivors, "set of sites to sum", self._site, among=self._cohort)
        if len(view.survivors) < self._min_cohort:
            raise Refused(
                f"the sum would be over {len(view.survivors)} sites, the minimum is "
                f"{self._min_cohort}",
                where=where,
            )
        if (view.step, view.attempt) in self._used:
            # Two vectors under one mask differ by the difference of what they hide.
            raise Refused("a vector was masked for it before", where=where)

    def mask(
        self, values: NDArray[np.int64] | NDArray[np.uint32], view: StepView
    ) -> NDArray[np.uint32]:
        """Returns the vector plus this site's masks, modulo 2^32; the argument is not changed.

        Args:
            values: int64[d] or uint32[d], taken modulo 2^32.
            view: What the server said about the step.

        Returns:
            uint32[d], uniform to everybody who lacks a secret that this site shares with a survivor.

        Raises:
            ProtocolError: See `check`.
            Refused: See `check`.
        """
        if values.ndim != 1 or values.dtype not in (np.int64, np.uint32):
            raise TypeError(f"int64[d] or uint32[d] is masked, not {values.dtype}{values.shape}")
        self.check(view)
        self._used.add((view.step, view.attempt))
        streams = [
            (
                Cipher(algorithms.AES256(seed), modes.CTR(_ZERO_COUNTER)).encryptor(),
                peer > self._site,
            )
            for peer, seed in self._seeds(view)
        ]
        masked = values.astype(np.uint32)
        zeros = bytes(4 * min(_CHUNK_WORDS, len(masked)))
        for start in range(0, len(masked), _CHUNK_WORDS):
            part = masked[start : start + _CHUNK_WORDS]
            for stream, is_later in streams:
                keystream = np.frombuffer(stream.update(zeros[: part.nbytes]), dtype="<u4")
                if is_later:
                    part += keystream
                else:
                    part -= keystream
        return masked

    def _seeds(self, view: StepView) -> Iterable[tuple[str, bytes]]:
        info = _frame(
            _STEP_INFO,
            _number(view.step),
            _number(view.attempt),
            _hash(*(site.encode() for site in view.survivors)),
            view.adapter_digest,
            self._descriptor_digest,
        )
        for peer in view.survivors:
            if peer != self._site:
                yield peer, _derive(self._secrets[peer], info)


def sum_ring(vectors: Iterable[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """Adds uint32[d] vectors modulo 2^32.

    Raises:
        ValueError: There are none, or their lengths differ.
    """
    iterator = iter(vectors)
    first = next(iterator, None)
    if first is None:
        raise ValueError("no vectors to add")
    total = first.copy()
    for vector in iterator:
        if vector.shape != total.shape:
            raise ValueError(f"vectors of {vector.shape} and {total.shape} words cannot be added")
        total += vector
    return total


_Message = TypeVar("_Message", Announcement, Encapsulation)


def _by_site(
    messages: Iterable[_Message], sender: Callable[[_Message], str], due: tuple[str, ...]
) -> dict[str, _Message]:
    """Returns exactly one message from each site that is due one, in that order."""
    found: dict[str, _Message] = {}
    for message in messages:
        site = sender(message)
        if site not in due:
            raise ProtocolError("no message of this site is due", where=site)
        if site in found:
            raise ProtocolError("this site's message came twice", where=site)
        found[site] = message
    for site in due:
        if site not in found:
            raise ProtocolError("this site's message is missing", where=site)
    return {site: found[site] for site in due}


def _signed_announcement(digest: bytes, site: str, x25519: bytes, mlkem: bytes) -> bytes:
    return _frame(digest, site.encode(), x25519, mlkem)


def _encoded(one: Announcement) -> bytes:
    return _frame(one.site.encode(), one.x25519, one.mlkem, one.signature)


def _frame(*parts: bytes) -> bytes:
    """Concatenates parts, each after its length, so that no two lists of parts look alike."""
    return b"".join(_number(len(part)) + part for part in parts)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(_frame(*parts)).digest()


def _derive(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _check_digest(digest: bytes) -> None:
    if len(digest) != DIGEST_BYTES:
        raise ProtocolError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")


def _check_members(sites: Sequence[str], noun: str, own: str, *, among: Iterable[str]) -> None:
    if list(sites) != sorted(set(sites)):
        raise ProtocolError(f"the {noun} is not sorted and distinct")
    if foreign := set(sites).difference(among):
        raise ProtocolError(f"the {noun} has sites that do not belong in it", where=min(foreign))
    if own not in sites:
        raise ProtocolError(f"the {noun} lacks this site", where=own)
