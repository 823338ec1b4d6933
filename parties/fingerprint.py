"""Fingerprints as words, which two operators can read to each other over the telephone.

A fingerprint is the first 160 bits of a SHA-256, written in 15 words of BIP-39's English list; the
last word ends in a checksum, so most slips of the tongue are found by the listener's own list. Two
rosters with one fingerprint, one of them made by an attacker who may choose keys for both, take
2^80 trials to find; a second key for a given fingerprint takes 2^160.
"""

import hashlib
from pathlib import Path

from mnemonic import Mnemonic

from hortus.protocol.identity import Roster
from hortus.runtime.canonical import canonical_json

_BYTES = 20


def key_words(name: str, public_key: bytes) -> str:
    """Returns the fingerprint of a party: its name and raw Ed25519 key, 32 bytes."""
    return _words("party", {"name": name, "key": public_key.hex()})


def roster_words(roster: Roster) -> str:
    """Returns the fingerprint of a whole roster: equal for everyone who has pinned the same keys."""
    keys = {name: key.hex() for name, key in roster.sites.items()}
    return _words("roster", {"server": roster.server.hex(), "sites": keys})


def roster_lines(path: Path) -> dict[str, object] | None:
    """Returns a roster's fingerprint and sites, as JSON has them; None if there is no roster yet."""
    if not path.exists():
        return None
    roster = Roster.load(path)
    return {"fingerprint": roster_words(roster), "sites": sorted(roster.sites)}


def _words(kind: str, content: dict[str, object]) -> str:
    prefix = f"hortus/v1/fingerprint/{kind}\x00".encode()
    digest = hashlib.sha256(prefix + canonical_json(content)).digest()
    return Mnemonic("english").to_mnemonic(digest[:_BYTES])
