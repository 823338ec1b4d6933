"""Which of a run's sites are connected, have answered and take part, during the run.

The round loop writes it, and `hortus server`, `hortus status` and the dashboard read it, from one small
file of the run's folder. All of it is public: names, what sites told the server, which step is due, and when a
SuperNode that is gone was last connected, which its heartbeats decide. Whose vector a sum waits for stands nowhere:
how long a site computes is no one else's business (client/pace.py).
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError

from hortus.runtime.errors import HortusError
from hortus.runtime.files import write_passing
from hortus.runtime.locks import held, is_held
from hortus.runtime.schema import Schema

ATTENDANCE = "attendance.json"
_LOCK = "attendance.lock"
_LOOK_SECONDS = 2.0
logger = logging.getLogger(__name__)


class Stage(StrEnum):
    """What the server does now."""

    STARTING = "the server starts"
    CONNECTING = "waiting for sites to connect"
    ASKING = "waiting for sites to check the plan and encode their records"
    JOINING = "the sites agree on keys"
    SUMMING = "training"
    TESTING = "testing the adapter"
    OVER = "over"


class Said(StrEnum):
    """What a site has answered to the plan."""

    NOTHING = ""
    YES = "takes part"
    LATER = "is preparing"
    NO = "refuses"
    INVALID = "gave no valid answer in time"


class Seen(Schema):
    """One site.

    Attributes:
        connected: Whether its SuperNode is, as far as heartbeats tell.
        heard: When one that no longer is was last, in seconds since the epoch; None: never, or it is.
        said: Its last answer.
        why: The reason that it gave, for what it said or for leaving a session.
        joined: Whether it is in the current session.
    """

    connected: bool = False
    heard: float | None = None
    said: Said = Said.NOTHING
    why: str = ""
    joined: bool = False

    @property
    def is_down(self) -> bool:
        """Whether it was connected, and is no longer."""
        return not self.connected and self.heard is not None

    @property
    def in_words(self) -> str:
        """Says how it is with the site: it is down, not connected yet, in the session."""
        if self.is_down:
            return f"down, last heard {at(self.heard or 0.0)}"
        if not self.connected:
            return "not connected yet"
        if self.joined:
            return "in the session"
        if self.said is Said.NOTHING:
            return "connected"
        return f"connected, {self.said}" + (f": {self.why}" if self.why else "")


class Attendance(Schema):
    """All sites, and what the server does.

    Attributes:
        stage: What it does.
        round: The round that it is in, from 1; 0 before the first.
        step: The secure sum of that round that is due, from 1; 0 where none is.
        steps: Sums in a round.
        attempt: Which attempt at the sum it is, from 1.
        sites: By name.
    """

    stage: Stage = Stage.STARTING
    round: int = Field(0, ge=0)
    step: int = Field(0, ge=0)
    steps: int = Field(0, ge=0)
    attempt: int = Field(1, ge=1)
    sites: Mapping[str, Seen] = {}

    @property
    def in_words(self) -> str:
        """What the server does, and for whom it waits."""
        if self.stage is not Stage.SUMMING:
            return str(self.stage) + (f": {', '.join(self.awaited)}" if self.awaited else "")
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"round {self.round}: step {self.step} of {self.steps}{again}"

    @property
    def awaited(self) -> list[str]:
        """Sites that have yet to connect, or to answer: before a session, they are waited for."""
        if self.stage is Stage.CONNECTING:
            return [name for name, seen in self.sites.items() if not seen.connected]
        if self.stage is Stage.ASKING:
            unsure = (Said.NOTHING, Said.LATER, Said.INVALID)
            return [name for name, seen in self.sites.items() if seen.said in unsure]
        return []


def at(seconds: float) -> str:
    """Writes a time as people read it, in UTC, whatever the machine's zone and language."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


class AttendanceBook:
    """Keeps the attendance of a run and writes each change; threads may share it.

    Args:
        directory: The run's folder.
        sites: Names of all sites of the roster.
        clock: Seconds since the epoch.
        nodes: Whose SuperNode Flower knows by which number.
        on_change: Told of each change, on the thread that makes it.
    """

    def __init__(
        self,
        directory: Path,
        sites: Collection[str],
        clock: Callable[[], float],
        nodes: Mapping[int, str] | None = None,
        on_change: Callable[[Attendance], None] = lambda _: None,
    ) -> None:
        self._path = directory / ATTENDANCE
        self._clock = clock
        self._nodes = nodes or {}
        self._on_change = on_change
        self._lock = threading.Lock()
        self._departures: Callable[[], Mapping[str, str]] = dict
        self._now = Attendance(sites={name: Seen() for name in sorted(sites)})
        self._write()

    @property
    def now(self) -> Attendance:
        """How things stand."""
        with self._lock:
            return self._now

    def begin(self, stage: Stage) -> None:
        """Notes what the server does from now on."""
        with self._lock:
            self._set(stage=stage)

    def see(self, nodes: Iterable[int]) -> None:
        """Notes which SuperNodes are connected now, and who has left the session meanwhile."""
        connected = {self._nodes.get(node) for node in nodes}
        with self._lock:
            for name, seen in self._now.sites.items():
                if name in connected:
                    self._site(name, connected=True, heard=None)
                elif seen.connected:
                    self._site(name, connected=False, heard=self._clock())
            self._look_who_left()

    def ask(self) -> None:
        """Notes that all sites are asked about the plan, from the beginning."""
        with self._lock:
            for name in self._now.sites:
                self._site(name, said=Said.NOTHING, why="", joined=False)
            self._set(stage=Stage.ASKING)

    def hear(self, site: str, said: Said, why: str = "") -> None:
        """Notes what a site has answered; whoever answers is connected."""
        with self._lock:
            if site in self._now.sites:
                self._site(site, connected=True, heard=None, said=said, why=why)

    def miss(self, nodes: Iterable[int]) -> None:
        """Notes that SuperNodes are there, but gave no valid answer, or none before the deadline."""
        for node in nodes:
            self.hear(self._nodes.get(node, ""), Said.INVALID)

    def join(self, cohort: Collection[str], departures: Callable[[], Mapping[str, str]]) -> None:
        """Notes that a session begins.

        Args:
            cohort: Whom it is for.
            departures: Tells who has left it, and why.
        """
        with self._lock:
            self._departures = departures
            for name in self._now.sites:
                self._site(name, joined=name in cohort)
            self._set(stage=Stage.JOINING)

    def sum(self, round_: int, step: int, steps: int) -> None:
        """Notes that a secure sum is due; round and step from 1."""
        with self._lock:
            self._look_who_left()
            self._set(stage=Stage.SUMMING, round=round_, step=step, steps=steps, attempt=1)

    def again(self, attempt: int) -> None:
        """Notes that an attempt at the sum has failed, and which one, from 1, follows."""
        with self._lock:
            self._look_who_left()
            self._set(attempt=attempt)

    def leave(self) -> None:
        """Notes that the session is over, and who had left it."""
        with self._lock:
            self._look_who_left()
            self._departures = dict
            for name in self._now.sites:
                self._site(name, joined=False)

    # Under the lock.

    def _look_who_left(self) -> None:
        for name, why in self._departures().items():
            if name in self._now.sites:
                self._site(name, joined=False, why=why)

    def _site(self, name: str, **changes: object) -> None:
        seen = self._now.sites[name].model_copy(update=changes)
        self._set(sites={**self._now.sites, name: seen})

    def _set(self, **changes: object) -> None:
        after = self._now.model_copy(update=changes)
        if after != self._now:
            self._now = after
            self._write()
            self._on_change(after)

    def _write(self) -> None:
        write_passing(self._path, self._now.model_dump_json().encode())


class InUse(HortusError):  # noqa: N818 - a state, not a fault
    """Another process is at work on a run."""


@contextmanager
def attended(directory: Path) -> Iterator[None]:
    """Shows, as long as the block lasts, that a server is at work in a run's folder.

    Raises:
        InUse: Another one is.
    """
    busy = InUse(
        "another process is working on this run",
        where=str(directory),
        remedy="Let it finish, stop it first, or choose another folder with --out.",
    )
    with held(directory / _LOCK, busy):
        yield


def is_attended(directory: Path) -> bool:
    """Whether a server is at work in a run's folder now."""
    return is_held(directory / _LOCK)


def has_attendance(directory: Path) -> bool:
    """Whether a server was ever at work in a run's folder."""
    return (directory / _LOCK).exists()


def read_attendance(directory: Path) -> Attendance | None:
    """Returns what was written last; None where nothing was, or nothing that is read."""
    try:
        return Attendance.model_validate_json((directory / ATTENDANCE).read_bytes())
    except (OSError, ValidationError):
        return None


def forget_attendance(directory: Path) -> None:
    """Removes what an earlier start has written."""
    (directory / ATTENDANCE).unlink(missing_ok=True)


@contextmanager
def watching(
    book: AttendanceBook, connected: Callable[[], Iterable[int]], every: float = _LOOK_SECONDS
) -> Iterator[None]:
    """Keeps looking who is connected, on a thread of its own, until the block is left.

    Args:
        book: Where it is noted.
        connected: Asks Flower which SuperNodes are.
        every: Seconds between two looks.
    """
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(every):
            try:
                nodes = list(connected())
            except Exception as error:  # noqa: BLE001 - whatever Flower's connection raises: the run needs none of it
                logger.warning("cannot ask who is connected: %s", type(error).__name__)
            else:
                book.see(nodes)

    watcher = threading.Thread(target=look, name="attendance", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(_LOOK_SECONDS)
