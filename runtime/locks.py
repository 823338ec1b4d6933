"""Locks that die with the process that holds them."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hortus.runtime.errors import HortusError

_TRIES = 4
_WAIT_SECONDS = 0.05


@contextmanager
def held(lock: Path, taken: HortusError) -> Iterator[None]:
    """Holds a lock file; the file stays, and its existence means nothing.

    Args:
        lock: The file; its folder is made.
        taken: What is raised when another process holds it.

    Raises:
        HortusError: `taken`, or the file cannot be made.
    """
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise HortusError(f"it cannot be written: {error.strerror}", where=str(lock)) from error
    with file:
        _take(file, taken)
        yield


def _take(file: IO[str], taken: HortusError) -> None:
    """Takes a lock; `is_held`, which a dashboard asks every second, holds it for a moment as well."""
    for attempt in range(1, _TRIES + 1):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if attempt == _TRIES:
                raise taken from error
            time.sleep(_WAIT_SECONDS)
        else:
            return


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock file now."""
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
