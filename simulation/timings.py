"""Where the seconds of a simulation go, by phase, summed over its virtual sites."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """A stopwatch that many threads share; call it with a phase's name as a context manager."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Adds the time spent in the block to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[phase] += time.perf_counter() - started  # type: ignore[assignment]

    def totals(self) -> dict[str, float]:
        """Seconds by phase so far."""
        with self._lock:
            return dict(self._seconds)
