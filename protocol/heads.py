"""Heads of ledgers: signed by their site, countersigned by the server.

Number and hash of a ledger's last entry stand for all of it. A site that is shown a head of its own
that its ledger does not contain knows that the ledger is an older copy; nobody else can make such a
head, since it carries the site's signature.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from hortus.protocol.identity import Identity, is_signed
from hortus.runtime.canonical import canonical_json
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic

_HEAD = "ledger head"
_COUNTERSIGNATURE = "countersigned ledger head"


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """A site's statement that its ledger ends, or ended, with this entry.

    Attributes:
        site: The site.
        seq: Number of the entry, from 1.
        hash: Its hash, hexadecimal.
        signature: The site's.
    """

    site: str
    seq: int
    hash: str
    signature: bytes

    @classmethod
    def sign(cls, identity: Identity, seq: int, hash_: str) -> Self:
        """Makes a site's statement."""
        signature = identity.sign(_HEAD, _encode(identity.site, seq, hash_))
        return cls(identity.site, seq, hash_, signature)

    def is_signed_by(self, public_key: bytes) -> bool:
        """Returns whether the raw Ed25519 key made the statement."""
        message = _encode(self.site, self.seq, self.hash)
        return is_signed(public_key, _HEAD, message, self.signature)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads an anchor, the file that `save` wrote.

        Raises:
            UsageError: It is missing, or no anchor.
        """
        try:
            value = json.loads(path.read_bytes())
            signature = bytes.fromhex(value["signature"])
            return cls(str(value["site"]), int(value["seq"]), str(value["hash"]), signature)
        except OSError as error:
            raise UsageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UsageError("this is not an anchor of a ledger", where=str(path)) from error

    def save(self, path: Path) -> None:
        """Writes an anchor, to be kept elsewhere than the ledger."""
        value = asdict(self) | {"signature": self.signature.hex()}
        write_atomic(path, json.dumps(value, indent=2).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Countersignature:
    """The server's statement that a site showed it this head at this time.

    Attributes:
        head: What was shown.
        time: Seconds since the epoch, by the server's clock.
        signature: The server's.
    """

    head: LedgerHead
    time: float
    signature: bytes

    @classmethod
    def make(cls, server: Identity, head: LedgerHead, time: float) -> Self:
        """Countersigns a head that the server has checked."""
        message = _encode_seen(head.site, head.seq, head.hash, time)
        return cls(head, time, server.sign(_COUNTERSIGNATURE, message))

    def is_signed_by(self, server_key: bytes) -> bool:
        """Returns whether the raw Ed25519 key made the statement."""
        head = self.head
        message = _encode_seen(head.site, head.seq, head.hash, self.time)
        return is_signed(server_key, _COUNTERSIGNATURE, message, self.signature)


def _encode(site: str, seq: int, hash_: str) -> bytes:
    return canonical_json({"site": site, "seq": seq, "hash": hash_})


def _encode_seen(site: str, seq: int, hash_: str, time: float) -> bytes:
    return canonical_json({"site": site, "seq": seq, "hash": hash_, "time": float(time).hex()})
