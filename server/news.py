"""What a change of a run's attendance is worth saying: one line each, on the console and in the log."""

import logging
from collections.abc import Iterator

from hortus.server.attendance import Attendance, Said, Seen, Stage, at

News = tuple[int, str]
"""A level of `logging`, and one sentence."""


def news(before: Attendance, after: Attendance) -> list[News]:
    """Tells what has changed, in the order in which a reader wants it."""
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
            yield logging.WARNING, f"{name} gave no valid answer: its own log says why"


def _of_stage(before: Attendance, after: Attendance) -> Iterator[News]:
    waits = (Stage.CONNECTING, Stage.ASKING)
    moved = after.stage is not before.stage
    if after.stage in waits and (moved or after.awaited != before.awaited):
        for_whom = f": {', '.join(after.awaited)}" if after.awaited else ""
        yield logging.INFO, f"{after.stage}{for_whom}"
    if moved and after.stage is Stage.JOINING:
        cohort = ", ".join(name for name, seen in after.sites.items() if seen.joined)
        yield logging.INFO, f"a session begins with {cohort}: {after.stage}"
    if after.round != before.round and after.stage is Stage.SUMMING:
        yield logging.INFO, f"round {after.round} begins"
    if after.attempt > 1 and after.attempt != before.attempt:
        yield logging.INFO, f"{after.in_words}: a site dropped out, the others form the sum again"
