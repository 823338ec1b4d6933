"""The secure sum: a server adds vectors of a cohort and learns their sum alone.

Each pair of sites holds a secret that the server does not; from it, for each step, both expand the
same mask, which one adds and the other subtracts (Bonawitz et al. 2017, without secret sharing:
when a site drops out, the sum is formed again). Three verbs: announce, agree (by way of
encapsulate), mask. docs/protocol.md has the argument, docs/threat-model.md the assumptions.

A pair's secret comes from X25519 and ML-KEM-768 (FIPS 203) together: it holds as long as one does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from hortus.privacy.secure_sum.masks import MaskGenerator, check_digest, check_members
from hortus.privacy.secure_sum.transcript import derive, frame, hash_of
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import MLKEM_CIPHERTEXT_BYTES, MLKEM_PUBLIC_BYTES, X25519_BYTES
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError, UsageError

_ANNOUNCEMENT = "secure-sum announcement"
_ENCAPSULATION = "secure-sum encapsulation"
_PAIR_INFO = b"hortus/v1/secure-sum pair"


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
        identity: Identity,
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
        identity: Identity,
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
        check_digest(descriptor_digest)
        check_members(cohort, "cohort", identity.site, among=roster.sites)
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
            check_announcement(announcement, self._roster, self._descriptor_digest)
        self._announced = hash_of_announcements(self._announcements.values())
        sent = tuple(self._encapsulate_to(peer) for peer in self._peers())
        self._state = _State.ENCAPSULATED
        return sent

    def agree(
        self, encapsulations: Iterable[Encapsulation], *, min_cohort: int, ring_bits: int = 32
    ) -> MaskGenerator:
        """Checks what everybody encapsulated and derives a secret with each peer.

        Args:
            encapsulations: What all others sent to this site.
            min_cohort: Fewest sites that this site will ever mask for.
            ring_bits: 32 or 24: vectors are masked modulo 2 to this power.

        Raises:
            ProtocolError: One is missing, foreign, repeated, altered, not signed by its site, or
                made for other announcements than this site saw.
        """
        self._advance(_State.ENCAPSULATED)
        received = _by_site(encapsulations, lambda one: one.sender, self._peers())
        for one in received.values():
            if one.receiver != self._identity.site:
                raise ProtocolError(
                    "its encapsulation is addressed to another site", where=one.sender
                )
            check_encapsulation(one, self._roster, self._descriptor_digest, self._announced)
        return MaskGenerator(
            site=self._identity.site,
            cohort=self._cohort,
            descriptor_digest=self._descriptor_digest,
            secrets={peer: self._pair_secret(peer, one) for peer, one in received.items()},
            min_cohort=min_cohort,
            ring_bits=ring_bits,
        )

    def _advance(self, due: _State) -> None:
        """Leaves the object finished unless the verb that called it comes to its end."""
        if self._state is not due:
            raise RuntimeError(f"the key exchange is {self._state.value}, not {due.value}")
        self._state = _State.FINISHED

    def _peers(self) -> tuple[str, ...]:
        return tuple(site for site in self._cohort if site != self._identity.site)

    def _encapsulate_to(self, peer: str) -> Encapsulation:
        site, ciphertext = self._identity.site, b""
        if site < peer:
            key = MLKEM768PublicKey.from_public_bytes(self._announcements[peer].mlkem)
            secret, ciphertext = key.encapsulate()
            self._encapsulated[peer] = secret, ciphertext
        signed = _signed_encapsulation(
            self._descriptor_digest, site, peer, self._announced, ciphertext
        )
        signature = self._identity.sign(_ENCAPSULATION, signed)
        return Encapsulation(site, peer, ciphertext, signature)

    def _pair_secret(self, peer: str, received: Encapsulation) -> bytes:
        if peer in self._encapsulated:
            kem, ciphertext = self._encapsulated[peer]
        else:
            ciphertext = received.ciphertext
            kem = self._mlkem.decapsulate(ciphertext)
        public = X25519PublicKey.from_public_bytes(self._announcements[peer].x25519)
        shared = self._x25519.exchange(public)
        first, second = sorted((self._identity.site, peer))
        transcript = hash_of(
            self._descriptor_digest,
            _encoded(self._announcements[first]),
            _encoded(self._announcements[second]),
            ciphertext,
        )
        return derive(shared + kem, frame(_PAIR_INFO, transcript))


def read_announcement(message: wire.Announcement) -> Announcement:
    """Takes a message's keys, unchecked."""
    return Announcement(message.site, message.x25519, message.mlkem, message.signature)


def read_encapsulation(message: wire.Encapsulation) -> Encapsulation:
    """Takes what a message says, unchecked."""
    return Encapsulation(message.sender, message.receiver, message.ciphertext, message.signature)


def check_announcement(one: Announcement, roster: Roster, descriptor_digest: bytes) -> None:
    """Checks one site's keys: every site does, and the server, so as to know whose fault it is.

    Raises:
        ProtocolError: They are malformed, or not signed by the site for this session.
    """
    if len(one.x25519) != X25519_BYTES or len(one.mlkem) != MLKEM_PUBLIC_BYTES:
        raise ProtocolError("its public keys have a wrong length", where=one.site)
    signed = _signed_announcement(descriptor_digest, one.site, one.x25519, one.mlkem)
    roster.verify(one.site, _ANNOUNCEMENT, signed, one.signature)
    try:
        MLKEM768PublicKey.from_public_bytes(one.mlkem)
    except ValueError as error:
        raise ProtocolError("its ML-KEM public key is malformed", where=one.site) from error
    try:
        # With a point of small order every private key makes the same secret, which is zero.
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(one.x25519))
    except ValueError as error:  # RFC 7748, section 6.1
        raise ProtocolError("its X25519 public key has a small order", where=one.site) from error


def hash_of_announcements(announcements: Iterable[Announcement]) -> bytes:
    """Returns the hash that an encapsulation is signed with: of a cohort's, sorted by site."""
    return hash_of(*(_encoded(one) for one in announcements))


def check_encapsulation(
    one: Encapsulation, roster: Roster, descriptor_digest: bytes, announced: bytes
) -> None:
    """Checks what one site says to one other; see `check_announcement`.

    Args:
        one: What it says.
        roster: Pinned keys.
        descriptor_digest: SHA-256 of the session's descriptor, 32 bytes.
        announced: `hash_of_announcements` of those that were given out.

    Raises:
        ProtocolError: It is malformed, not signed by its sender, or for other announcements.
    """
    due = MLKEM_CIPHERTEXT_BYTES if one.sender < one.receiver else 0
    if len(one.ciphertext) != due:
        raise ProtocolError("its ciphertext has a wrong length", where=one.sender)
    signed = _signed_encapsulation(
        descriptor_digest, one.sender, one.receiver, announced, one.ciphertext
    )
    roster.verify(one.sender, _ENCAPSULATION, signed, one.signature)


_Message = TypeVar("_Message", Announcement, Encapsulation)


def _by_site(
    messages: Iterable[_Message], sender: Callable[[_Message], str], due: tuple[str, ...]
) -> dict[str, _Message]:
    """Returns exactly one message from each site that is due one, in that order."""
    found: dict[str, _Message] = {}
    for message in messages:
        site = sender(message)
        if site not in due:
            raise ProtocolError("no message of this site is expected", where=site)
        if site in found:
            raise ProtocolError("this site's message arrived twice", where=site)
        found[site] = message
    for site in due:
        if site not in found:
            raise ProtocolError("this site's message is missing", where=site)
    return {site: found[site] for site in due}


def _signed_announcement(digest: bytes, site: str, x25519: bytes, mlkem: bytes) -> bytes:
    return frame(digest, site.encode(), x25519, mlkem)


def _signed_encapsulation(
    digest: bytes, sender: str, receiver: str, announced: bytes, ciphertext: bytes
) -> bytes:
    return frame(digest, sender.encode(), receiver.encode(), announced, ciphertext)


def _encoded(one: Announcement) -> bytes:
    return frame(one.site.encode(), one.x25519, one.mlkem, one.signature)
