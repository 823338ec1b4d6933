"""When a site is heard: at public times, whatever its records take.

A time is counted from a moment that the server knows, such as its question or the last byte of an
adapter, and lies on a grid that follows from the plan and from what the server has already seen. So
the server's clock reveals only how many places on the grid were missed.
"""

import threading
import time
from typing import Protocol

GROWTH = 1.25  # from one place on the grid to the next: waiting costs at most this factor
_MOST_PLACES = (
    3  # that one delay moves the slot by: a machine that stalls once is not slow for good
)


class Pace:
    """The slot that actions of one kind wait for; it only ever becomes longer. Threads may share it.

    The grid is slot·growth^k for k = 0, 1, …: an action that misses the slot takes the next place,
    and the slot moves after it, by at most `most` places.

    Args:
        first: Seconds of the first slot.
        growth: Above 1.
        most: Places that one action moves the slot by.
    """

    def __init__(self, first: float, growth: float = GROWTH, most: int = _MOST_PLACES) -> None:
        self._slot = first
        self._growth = growth
        self._most = most
        self._lock = threading.Lock()

    @property
    def slot(self) -> float:
        """Seconds of the slot."""
        with self._lock:
            return self._slot

    def after(self, elapsed: float) -> float:
        """Returns the first place on the grid, in seconds, that is still to come; moves nothing."""
        with self._lock:
            place = self._slot
            while place <= elapsed:
                place *= self._growth
            return place

    def due(self, elapsed: float) -> float:
        """Returns the first place on the grid, in seconds, that has not passed.

        Args:
            elapsed: Seconds since the action could begin.
        """
        with self._lock:
            place, missed = self._slot, 0
            while place < elapsed:
                place, missed = place * self._growth, missed + 1
            self._slot *= self._growth ** min(missed, self._most)
            return place


class Clock(Protocol):
    """A site's clock.

    Attributes:
        observed: Whether another party can see when this site acts.
    """

    @property
    def observed(self) -> bool:
        """See the class."""
        ...

    def now(self) -> float:
        """Returns seconds since some moment."""
        ...

    def wait(self, seconds: float, unless: threading.Event) -> None:
        """Returns after this many seconds, or when the event is set."""
        ...


class MachineClock:
    """This machine's clock, of a site that a server watches."""

    observed = True

    def now(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wait(self, seconds: float, unless: threading.Event) -> None:
        """See `Clock`."""
        unless.wait(seconds)


class RehearsalClock:
    """Of a rehearsal, where every site belongs to whoever watches: nobody waits."""

    observed = False

    def now(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wait(self, seconds: float, unless: threading.Event) -> None:
        """See `Clock`; returns at once."""


class Timetable:
    """Actions of one kind by one clock.

    Args:
        pace: Their grid.
        clock: The site's.
    """

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock

    def now(self) -> float:
        """Returns the clock's time, to begin an action at."""
        return self._clock.now()

    def keep(self, begun: float, unless: threading.Event) -> None:
        """Waits for the next place on the grid; returns at once if nobody watches.

        Args:
            begun: When the action could begin, by `now`.
            unless: Ends the wait when it is set.
        """
        if self._clock.observed:
            elapsed = self._clock.now() - begun
            self._clock.wait(self._pace.due(elapsed) - elapsed, unless)
