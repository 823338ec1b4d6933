"""The state of a site's connection to the server: logged when it changes, and kept where `hortus status` looks.

Flower's SuperNode holds the connection, and writes why it fails into a log of its own. Here that is read, the way
to the server is tried on foot, and the reason is said in one sentence with a remedy.
"""

import logging
import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from hortus.parties.folders import SiteFiles
from hortus.parties.reach import Reached, of_certificate
from hortus.runtime.files import write_passing
from hortus.runtime.schema import Schema

logger = logging.getLogger(__name__)
_STARTED = "Starting Flower SuperNode"
_CONNECTED = re.compile(r"SuperNode ID: \d+|Connection successful after")
_RETRYING = re.compile(r"Connection attempt failed|Giving up reconnection")
_VERIFY = re.compile(r"CERTIFICATE_VERIFY_FAILED\] certificate verify failed: ([^(\n]*)")
_NOT_TLS = re.compile(r"\[SSL: ([A-Z0-9_]+)\]")
_NOT_LET_IN = re.compile(r"\[code: 2004\]|Failed to activate SuperNode|Invalid SuperNode auth")


class Link(StrEnum):
    """The state of the connection."""

    TRYING = "trying"
    UP = "connected"
    DOWN = "not connected"


class Connection(Schema):
    """What is kept of it.

    Attributes:
        link: Its state.
        server: Host and port of the SuperLink.
        since: Since when, in seconds since the epoch.
        problem: Why it is not up, in one sentence; empty where nothing is wrong.
        remedy: What to do about it.
    """

    link: Link
    server: str
    since: float
    problem: str = ""
    remedy: str = ""


def said_by_supernode(log: str, server: str, now: datetime) -> tuple[Link, Reached]:
    """Reads a SuperNode's log.

    Args:
        log: The end of it.
        server: Host and port that it dials.
        now: This machine's time.

    Returns:
        The state of its connection, and the reason for a failure if the log has one.
    """
    log = log[log.rfind(_STARTED) if _STARTED in log else 0 :]
    if found := _VERIFY.search(log):
        return Link.DOWN, of_certificate(found[1], server, now)
    if found := _NOT_TLS.search(log):
        said = found[1].replace("_", " ").lower()
        return Link.DOWN, Reached(
            f"the program at {server} does not use TLS as the server does: {said}",
            "Is it the right port? Another program may listen there.",
        )
    if _NOT_LET_IN.search(log):
        return Link.DOWN, Reached(
            f"the server at {server} has not let this site in: it does not know the key of its SuperNode yet, "
            "or the clocks differ",
            "A server that has just started lets its sites in after some seconds, and this site keeps trying. "
            "If it does not help: hortus check SITE_DIR compares the clocks; at the server, run hortus roster "
            "add SERVER_DIR with this site's current card, and restart it.",
        )
    ups = [match.start() for match in _CONNECTED.finditer(log)]
    losses = [match.start() for match in _RETRYING.finditer(log)]
    if ups and ups[-1] > max(losses, default=-1):
        return Link.UP, Reached()
    if losses:
        return Link.TRYING, Reached(
            f"the connection to {server} {'was lost' if ups else 'fails'}",
            "The agent keeps trying; hortus check SITE_DIR looks for the reason.",
        )
    return Link.TRYING, Reached()


class ConnectionBook:
    """Logs each change, once, and keeps it; one thread writes, others may read.

    Args:
        files: The site's folder.
        server: Host and port of the SuperLink.
        clock: Seconds since the epoch.
    """

    def __init__(self, files: SiteFiles, server: str, clock: Callable[[], float]) -> None:
        self._path = files.connection
        self._clock = clock
        self.now = Connection(link=Link.TRYING, server=server, since=clock())
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write()

    def note(self, link: Link, found: Reached) -> None:
        """Notes the state; logs only what has changed."""
        before = self.now
        # A new try after a failure is not news, and the reason still holds.
        if link is Link.TRYING and not found.problem and before.link is Link.DOWN:
            return
        if (link, found.problem) == (before.link, before.problem):
            return
        self.now = before.model_copy(
            update={
                "link": link,
                "since": self._clock(),
                "problem": found.problem,
                "remedy": found.remedy,
            }
        )
        self._write()
        if found.problem:
            logger.warning("%s %s", _sentence(found.problem), found.remedy)
        elif link is Link.UP:
            logger.info("is connected to the server at %s", before.server)

    def reason(self) -> str | None:
        """Returns why the connection is not up; None: it is."""
        if self.now.link is Link.UP:
            return None
        return self.now.problem or f"the server at {self.now.server} has not answered yet"

    def _write(self) -> None:
        write_passing(self._path, self.now.model_dump_json().encode())


def read_connection(files: SiteFiles) -> Connection | None:
    """Returns what a running agent has written last; None where there is nothing that can be read."""
    try:
        return Connection.model_validate_json(files.connection.read_bytes())
    except (OSError, ValidationError):
        return None


def end_of(log: Path, most: int = 2**15) -> str:
    """Returns the end of a log; empty if the file does not exist."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _sentence(problem: str) -> str:
    return problem[0].upper() + problem[1:] + "."
