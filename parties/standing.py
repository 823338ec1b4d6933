"""What `hortus status` shows for both a site and the server, read from its folder while it runs."""

from collections.abc import Mapping
from datetime import datetime

from hortus.parties.expiry import certificate_lines
from hortus.parties.fingerprint import key_words, roster_lines
from hortus.parties.folders import ServerFiles, SiteFiles
from hortus.protocol.identity import Identity
from hortus.runtime.locks import is_held
from hortus.runtime.moments import iso_time


def party_standing(
    files: SiteFiles | ServerFiles, name: str, seen: Mapping[str, float], now: datetime
) -> dict[str, object]:
    """Returns a party's name, keys and state as JSON has them.

    Args:
        files: Its folder.
        name: Its name.
        seen: When it last heard of others, in seconds since the epoch, by name.
        now: The time, with its zone.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
    """
    key = Identity.load(files.identity, name).public_key_bytes
    return {
        "name": name,
        "fingerprint": key_words(name, key),
        "state": "running" if is_held(files.lock) else "not running",
        "contacts": {other: iso_time(seconds) for other, seconds in seen.items()},
        "roster": roster_lines(files.roster),
        "certificates": certificate_lines(files, now),
    }
