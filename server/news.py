"""What a change of a run's attendance is worth saying: one line each, on the console and in the log."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from hortus.server.run.attendance import (
    Attendance,
    Said,
    Seen,
    Stage,
    at,
    forget_attendance,
    read_attendance,
)

logger = logging.getLogger(__name__)

News = tuple[int, str]
"""A level of `logging`, and one sentence."""


class Reporter:
    """Follows a run's attendance, which another process writes, and logs what is new.

    Args:
        directory: The run's folder; what an earlier start left there is forgotten.
        on_stage: Receives a few words about what the server does now.
    """

    def __init__(self, directory: Path, on_stage: Callable[[str], None]) -> None:
        self._directory = directory
        self._on_stage = on_stage
        self._last = Attendance()
        forget_attendance(directory)

    def tell(self, stage: str) -> None:
        """Logs what the server does before the round loop starts."""
        logger.info("%s", stage)
        self._on_stage(stage)

    def look(self) -> None:
        """Logs what has changed since the last look."""
        found = read_attendance(self._directory)
        if found is None or found == self._last:
            return
        for level, line in news(self._last, found):
            logger.log(level, "%s", line)
        self._last = found
        self._on_stage(found.in_words)


def news(before: Attendance, after: Attendance) -> list[News]:
    """Returns what has changed, in the order in which a reader wants it."""
    told = [line for name in after.sites for line in _of_site(name, before, after)]
    return [*told, *_of_stage(before, after)]


def _of_site(name: str, before: Attendance, after: Attendance) -> Iterator[News]:
    was, now = before.sites.get(name, Seen()), after.sites[name]
    if now.connected and not was.connected:
        again = " again" if was.is_down else ""
        yield logging.INFO, f"{name} is connected{again}"
    if now.is_down and not was.is_down:
        yield logging.WARNING, f"{name} is down: last heard {at(now.heard or 0.0)}"
    if was.joined and not now.joined and now.why and now.why != was.why:
        yield logging.WARNING, f"{name} has left the session: {now.why}"
    elif (now.said, now.why) != (was.said, was.why):
        if now.said is Said.YES and not now.why:
            yield logging.INFO, f"{name} takes part"
        elif now.said is Said.LATER:
            yield logging.INFO, f"{name} is preparing: {now.why}"
        elif now.said is Said.NO:
            yield logging.WARNING, f"{name} refuses: {now.why}"
        elif now.said is Said.INVALID:
            yield logging.WARNING, f"{name} gave no valid answer in time: its own log says why"


def _of_stage(before: Attendance, after: Attendance) -> Iterator[News]:
    waits = (Stage.CONNECTING, Stage.ASKING)
    moved = after.stage is not before.stage
    if after.stage in waits and (moved or after.awaited != before.awaited):
        yield logging.INFO, after.in_words
    cohort, former = (
        [name for name, seen in one.sites.items() if seen.joined] for one in (after, before)
    )
    if cohort and not former:
        yield logging.INFO, f"a session begins with {', '.join(cohort)}"
    if after.round != before.round and after.stage is Stage.SUMMING:
        yield logging.INFO, f"round {after.round} begins"
    if after.attempt > 1 and after.attempt != before.attempt:
        yield logging.INFO, f"{after.in_words}: a site dropped out, and the others repeat the sum"
