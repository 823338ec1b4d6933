"""Identities: the Ed25519 signing keys of sites and of the server, and the roster of pinned public keys.

When a party changes its key, the old key signs which key follows it, and after which entry of a site's ledger. So
whoever pinned the old key may take the new one, and an audit knows
which key signs which entry.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field

from hortus.protocol.certificates import UNREADABLE
from hortus.runtime.canonical import canonical_json
from hortus.runtime.documents import load_yaml
from hortus.runtime.errors import ProtocolError, UsageError
from hortus.runtime.files import write_atomic, write_private
from hortus.runtime.names import SERVER, check_site_name
from hortus.runtime.schema import Schema, SchemaFile

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_HANDOVER = "handover"
HANDOVERS = "handovers.yaml"  # beside a party's key

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HexSignature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def _separated(context: str, message: bytes) -> bytes:
    """Binds a message to one purpose; a context holds no zero byte, so the pair is unambiguous."""
    return b"hortus/v1/" + context.encode("ascii") + b"\x00" + message


@dataclass(frozen=True, slots=True)
class Identity:
    """A name and its signing key: a site's, or the server's under the name `SERVER`.

    Attributes:
        site: The name that the roster has for the key.
        handovers: From the keys that it had before, oldest first.
    """

    site: str
    _key: Ed25519PrivateKey = field(repr=False, compare=False)
    handovers: tuple["Handover", ...] = ()

    def __post_init__(self) -> None:
        check_site_name(self.site)
        check_handovers(self.site, self.handovers, self.public_key_bytes)

    @classmethod
    def generate(cls, site: str) -> Self:
        """Makes a new identity that lives in memory."""
        return cls(site, Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, site: str, path: Path) -> Self:
        """Makes a new identity and writes its key as PKCS #8 PEM, mode 0600.

        Raises:
            UsageError: There is a key already: its roster entries and ledger would be orphaned.
        """
        if path.exists():
            raise UsageError(
                "the folder already has an identity, which is not replaced", where=str(path)
            )
        identity = cls.generate(site)
        pem = identity._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, pem)
        return identity

    @classmethod
    def load(cls, path: Path, site: str) -> Self:
        """Reads the key that `create` wrote, and any hand-overs that led to it.

        Raises:
            UsageError: The file is missing or holds no unencrypted Ed25519 private key, or the
                hand-overs beside it lead to another key.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise UsageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
        except UNREADABLE as error:
            raise UsageError("this is not a private key in PEM", where=str(path)) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError("this is a private key, but not an Ed25519 one", where=str(path))
        try:
            return cls(site, key, load_handovers(path.with_name(HANDOVERS)))
        except UsageError as error:
            remedy = "If a change of the key was interrupted, run: hortus rotate identity DIR"
            raise UsageError(error.problem, where=str(path), remedy=remedy) from error

    @property
    def public_key_bytes(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def public_key_at(self, entry: int) -> bytes:
        """Returns the raw public key that signs an entry of the site's ledger, by number from 1."""
        return key_at(self.public_key_bytes, self.handovers, entry)

    def public_keys_since(self, entry: int) -> list[bytes]:
        """Returns the keys that can have vouched for an entry: its own key and later ones."""
        former = [bytes.fromhex(h.key) for h in self.handovers if entry <= h.last_entry]
        return [*former, self.public_key_bytes]

    def sign(self, context: str, message: bytes) -> bytes:
        """Signs a message for one purpose.

        Args:
            context: The purpose; a signature holds under no other.
            message: What is signed.

        Returns:
            The signature, 64 bytes.
        """
        return self._key.sign(_separated(context, message))


def is_signed(public_key: bytes, context: str, message: bytes, signature: bytes) -> bool:
    """Returns whether the raw Ed25519 key signed the message for this purpose."""
    try:
        _loaded(public_key).verify(signature, _separated(context, message))
    except (InvalidSignature, ValueError):
        return False
    return True


# Reading a key takes a sixth of the time of checking a signature with it.
@lru_cache(maxsize=256)
def _loaded(public_key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)


class Handover(Schema):
    """A statement of a party's former key: which key follows it, and after which entry of a site's ledger."""

    key: Hex32 = Field(description="The former key, raw Ed25519.")
    successor: Hex32 = Field(description="The key after it.")
    last_entry: int = Field(ge=0, description="Last ledger entry of the former key; 0 for none.")
    head: Hex32 = Field(description="Hash of that entry.")
    signature: HexSignature = Field(description="The former key's, of all this and the name.")

    @classmethod
    def make(cls, identity: Identity, successor: bytes, last_entry: int, head: str) -> Self:
        """Signs a hand-over from an identity to the key that follows it."""
        content = {
            "key": identity.public_key_bytes.hex(),
            "successor": successor.hex(),
            "last_entry": last_entry,
            "head": head,
        }
        message = canonical_json(content | {"site": identity.site})
        return cls.model_validate(content | {"signature": identity.sign(_HANDOVER, message).hex()})

    def is_signed_for(self, site: str) -> bool:
        """Returns whether the former key signed this for a site of that name."""
        message = canonical_json(self.model_dump(exclude={"signature"}) | {"site": site})
        return is_signed(bytes.fromhex(self.key), _HANDOVER, message, bytes.fromhex(self.signature))


def check_handovers(site: str, handovers: tuple[Handover, ...], key: bytes) -> None:
    """Checks that hand-overs lead, one after the other, to a site's present key.

    Raises:
        UsageError: They do not.
    """
    last, successors = 0, [*(handover.key for handover in handovers[1:]), key.hex()]
    for handover, successor in zip(handovers, successors, strict=False):
        if not handover.is_signed_for(site):
            raise UsageError("a hand-over is not signed by the key that it is from", where=site)
        if handover.successor != successor or handover.last_entry < last:
            raise UsageError("its hand-overs do not lead to its present key", where=site)
        last = handover.last_entry


def key_at(key: bytes, handovers: tuple[Handover, ...], entry: int) -> bytes:
    """Returns the key that signs an entry of a ledger, by number from 1; `key` is the present one."""
    former = (bytes.fromhex(h.key) for h in handovers if entry <= h.last_entry)
    return next(former, key)


def load_handovers(path: Path) -> tuple[Handover, ...]:
    """Reads the hand-overs that a site keeps beside its key; none if there is no such file.

    Raises:
        UsageError: The file is wrong.
    """
    if not path.exists():
        return ()
    return _HandoverFile.load(path).handovers


def save_handovers(path: Path, handovers: tuple[Handover, ...]) -> None:
    """Writes the file that `load_handovers` reads."""
    _HandoverFile(handovers=handovers).save(path)


@dataclass(frozen=True, slots=True)
class Roster:
    """The consortium's public keys, as one party has pinned them. Only that party's operator changes them.

    Attributes:
        sites: Raw Ed25519 public key of each site, 32 bytes, by name.
        server: The server's. It vouches for what the server says, never for a site.
        handovers: How a party came from each former key to the next, oldest first.
    """

    sites: Mapping[str, bytes]
    server: bytes
    handovers: Mapping[str, tuple[Handover, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if SERVER in self.sites:
            raise UsageError("a site cannot have the server's name", where=SERVER)
        owners: dict[bytes, str] = {}
        for site, key in {SERVER: self.server, **self.sites}.items():
            check_site_name(site)
            if len(key) != KEY_BYTES:
                raise UsageError(f"a public key has {KEY_BYTES} bytes, not {len(key)}", where=site)
            # A party with two names would count twice towards the smallest cohort.
            if key in owners:
                raise UsageError(f"the key is also {owners[key]}'s", where=site)
            owners[key] = site
        for site, handovers in self.handovers.items():
            if site != SERVER and site not in self.sites:
                raise UsageError("the roster has hand-overs, but no key", where=f"handovers.{site}")
            check_handovers(site, handovers, self.key_of(site))
            for former in (bytes.fromhex(handover.key) for handover in handovers):
                if former in owners:
                    raise UsageError(f"a former key is also {owners[former]}'s", where=site)
                owners[former] = site
        object.__setattr__(self, "handovers", MappingProxyType(dict(self.handovers)))
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads `server: KEY`, `sites: {name: KEY}` and, if there are any, `handovers`.

        A key is 64 hexadecimal digits.

        Raises:
            UsageError: The file is not that; it names the site.
        """
        return cls.parse(load_yaml(path), path)

    @classmethod
    def parse(cls, content: Mapping[str, object], path: Path) -> Self:
        """Reads the content of the file `path`; see `load`."""
        sites = content.get("sites")
        handovers = content.get("handovers", {})
        if (
            set(content) - {"handovers"} != {SERVER, "sites"}
            or not isinstance(sites, dict)
            or not isinstance(handovers, dict)
        ):
            raise UsageError(
                "a roster has `server` with a key, and `sites` with a name and a key on each line",
                where=str(path),
            )
        keys = {site: _parse_key(path, f"sites.{site}", key) for site, key in sites.items()}
        server = _parse_key(path, SERVER, content[SERVER])
        try:
            return cls(keys, server, _parse_handovers(path, handovers))
        except UsageError as error:
            where = f"{path}: {error.where}" if error.where else str(path)
            raise UsageError(error.problem, where=where, remedy=error.remedy) from error

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads."""
        write_atomic(path, yaml.safe_dump(self.content()).encode())

    def content(self) -> dict[str, object]:
        """Returns what `parse` reads."""
        sites = {site: key.hex() for site, key in self.sites.items()}
        content: dict[str, object] = {SERVER: self.server.hex(), "sites": sites}
        if self.handovers:
            content["handovers"] = {
                site: [handover.model_dump() for handover in handovers]
                for site, handovers in self.handovers.items()
            }
        return content

    def key_of(self, name: str) -> bytes:
        """Returns the present key of a site, or of the server; empty if the party is not in the roster."""
        return self.server if name == SERVER else self.sites.get(name, b"")

    def with_key(self, name: str, key: bytes, handovers: tuple[Handover, ...]) -> Self:
        """Returns a roster with one party's key added or replaced."""
        chains = {**self.handovers, **({name: handovers} if handovers else {})}
        if name == SERVER:
            return replace(self, server=key, handovers=chains)
        return replace(self, sites={**self.sites, name: key}, handovers=chains)

    def server_keys(self) -> list[bytes]:
        """Returns the keys that the server has had, the present one last."""
        former = [bytes.fromhex(handover.key) for handover in self.handovers.get(SERVER, ())]
        return [*former, self.server]

    def key_at(self, site: str, entry: int) -> bytes:
        """Returns the key that signs an entry of a site's ledger, by number from 1."""
        return key_at(self.sites[site], self.handovers.get(site, ()), entry)

    def verify(self, site: str, context: str, message: bytes, signature: bytes) -> None:
        """Checks a signature against the pinned key.

        Raises:
            ProtocolError: The site is unknown here, or did not sign this for this purpose.
        """
        if site not in self.sites:
            raise ProtocolError(
                "this site is not in the pinned roster",
                where=site,
                remedy="If it has joined the consortium, its key belongs in roster.yaml.",
            )
        if not is_signed(self.sites[site], context, message, signature):
            raise ProtocolError(
                f"its signature of the {context} does not match the key in the pinned roster",
                where=site,
            )

    def verify_server(self, context: str, message: bytes, signature: bytes) -> None:
        """Checks a signature against the server's pinned key.

        Raises:
            ProtocolError: The server did not sign this for this purpose.
        """
        if not is_signed(self.server, context, message, signature):
            raise ProtocolError(
                f"its signature of the {context} does not match the key in the pinned roster",
                where=SERVER,
            )


def _parse_key(path: Path, field: str, value: object) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value):
        return bytes.fromhex(value)
    told = repr(value[:70]) if isinstance(value, str) else f"a {type(value).__name__}"
    raise UsageError(
        f"the public key is {told}, not 64 hexadecimal digits in quotes",
        where=f"{path}: {field}",
    )


class _HandoverFile(SchemaFile):
    handovers: tuple[Handover, ...]


class _Handovers(Schema):
    handovers: dict[str, tuple[Handover, ...]]


def _parse_handovers(path: Path, value: dict[str, object]) -> dict[str, tuple[Handover, ...]]:
    return _Handovers.parse({"handovers": value}, path).handovers
