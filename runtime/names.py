"""Names of parties: each also names a host, a file, a folder and a key in YAML."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from hortus.runtime.errors import UsageError

SERVER = "server"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_RULE = "1 to 63 lower-case ASCII letters, digits and hyphens, no hyphen in front"


def check_site_name(name: str) -> None:
    """Raises UsageError unless `name` can name a party."""
    if not _NAME.fullmatch(name):
        near = nearest_name(name)
        raise UsageError(
            f"{name[:80]!r} cannot name a site",
            remedy=(f"Call it {near!r}: a name is " if near else "Use ") + _RULE + ".",
        )


def nearest_name(text: str) -> str | None:
    """Returns what a site may be called: zurich-ward-a for "Zürich, Ward A".

    None where letters would be lost, or nothing would be left.
    """
    apart = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in apart if not unicodedata.combining(c)).lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    lossless = all(c.isascii() for c in plain if c.isalnum())
    return name if lossless and _NAME.fullmatch(name) else None


def _checked(name: str) -> str:
    try:
        check_site_name(name)
    except UsageError as error:
        raise ValueError(f"{error.problem}. {error.remedy}") from None
    if name == SERVER:
        raise ValueError("a site cannot have the server's name")
    return name


SiteName = Annotated[str, AfterValidator(_checked)]
