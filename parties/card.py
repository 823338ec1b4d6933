"""Public cards: what a party hands to the others as a file, signed with its own identity key.

A card holds nothing secret and may travel any way. Its signature shows that it is whole, and that
one key stands behind all of it; whose key that is, the operators find out by comparing fingerprints
in words (fingerprint.py).
"""

from datetime import date, datetime
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field

from hortus.parties.folders import Address
from hortus.protocol import lifetimes
from hortus.protocol.certificates import check_request
from hortus.protocol.identity import (
    Handover,
    Hex32,
    HexSignature,
    Identity,
    check_handovers,
    is_signed,
)
from hortus.runtime.canonical import canonical_json
from hortus.runtime.documents import load_yaml
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.names import SERVER, check_site_name
from hortus.runtime.schema import Schema

_CONTEXT = "card"


class _Card(Schema):
    identity: Hex32 = Field(description="The party's Ed25519 public key.")
    expires: date = Field(description="Last day on which anybody should accept the card.")
    signature: HexSignature = Field(description="That key's signature of everything else.")

    @property
    def key(self) -> bytes:
        """The identity key, 32 bytes."""
        return bytes.fromhex(self.identity)

    @classmethod
    def _signed(cls, identity: Identity, now: datetime, content: dict[str, object]) -> Self:
        fields = content | {
            "identity": identity.public_key_bytes.hex(),
            "expires": (now + lifetimes.CARD).date(),
        }
        draft = cls.model_validate(fields | {"signature": "0" * 128})
        signature = identity.sign(_CONTEXT, draft._message())
        return cls.model_validate(fields | {"signature": signature.hex()})

    def _message(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"signature"}))

    def _check(self, now: datetime, where: str) -> None:
        if not is_signed(self.key, _CONTEXT, self._message(), bytes.fromhex(self.signature)):
            raise UsageError(
                "the card was altered: its signature does not match its content",
                where=where,
                remedy="Ask its owner for the file as it was made.",
            )
        if now.date() > self.expires:
            raise UsageError(
                f"the card expired on {self.expires}",
                where=where,
                remedy="Ask its owner for a new one: hortus roster card DIR",
            )

    def save(self, path: Path) -> None:
        """Writes the file that `load_card` reads."""
        fields = self.model_dump(mode="json")
        write_atomic(path, yaml.safe_dump(fields, sort_keys=False).encode())


class SiteCard(_Card):
    """A site's public keys."""

    kind: Literal["site"] = "site"
    site: str = Field(description="The site's name.")
    flower: str = Field(description="Public key of its SuperNode, OpenSSH.")
    request: str = Field(description="Certificate signing request of its TLS key, PEM.")
    handovers: tuple[Handover, ...] = Field(
        (), description="Hand-overs from its former keys to this one."
    )

    @classmethod
    def make(
        cls,
        identity: Identity,
        now: datetime,
        *,
        flower: str,
        request: str,
        handovers: tuple[Handover, ...] = (),
    ) -> Self:
        """Signs a site's card."""
        content: dict[str, object] = {
            "site": identity.site,
            "flower": flower,
            "request": request,
            "handovers": handovers,
        }
        return cls._signed(identity, now, content)

    def check(self, now: datetime) -> None:
        """Checks that the card is whole and still to be taken up.

        Raises:
            UsageError: It was altered, has expired or contradicts itself.
        """
        check_site_name(self.site)
        if self.site == SERVER:
            raise UsageError("a site cannot have the server's name", where=SERVER)
        self._check(now, self.site)
        check_request(self.request, self.site)
        check_handovers(self.site, self.handovers, self.key)


class Membership(Schema):
    """What the server has for a site."""

    certificate: str = Field(description="The site's TLS certificate, PEM.")
    flower: str = Field(description="The public key of its SuperNode, OpenSSH.")


class ServerCard(_Card):
    """The server's public key and addresses, and what it has issued to each site."""

    kind: Literal["server"] = "server"
    authority: str = Field(description="Certificate of the TLS authority, PEM.")
    aggregation: Address = Field(
        description="Host and port at which sites dial the aggregation service."
    )
    superlink: Address = Field(description="Host and port at which sites dial the SuperLink.")
    members: dict[str, Membership] = Field(description="What the server has issued to each site.")
    handovers: tuple[Handover, ...] = Field(
        (), description="Hand-overs from its former keys to this one."
    )

    @classmethod
    def make(
        cls,
        identity: Identity,
        now: datetime,
        *,
        authority: str,
        aggregation: str,
        superlink: str,
        members: dict[str, Membership],
    ) -> Self:
        """Signs the server's card."""
        content: dict[str, object] = {
            "authority": authority,
            "aggregation": aggregation,
            "superlink": superlink,
            "members": members,
            "handovers": identity.handovers,
        }
        return cls._signed(identity, now, content)

    def check(self, now: datetime) -> None:
        """Checks that the card is whole and still to be taken up.

        Raises:
            UsageError: It was altered, has expired or contradicts itself.
        """
        self._check(now, SERVER)
        check_handovers(SERVER, self.handovers, self.key)


def load_card(path: Path) -> SiteCard | ServerCard:
    """Reads a card; its owner and signature are not checked here.

    Raises:
        UsageError: The file is not a card; the error names the field.
    """
    fields = load_yaml(path)
    kinds: dict[str, type[SiteCard | ServerCard]] = {"site": SiteCard, "server": ServerCard}
    model = kinds.get(str(fields.get("kind")))
    if model is None:
        raise UsageError(
            f"this is not a card: its kind is {str(fields.get('kind'))[:60]!r}, not site or server",
            where=str(path),
        )
    return model.parse(fields, path)
