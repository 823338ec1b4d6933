"""What a site counts for its own operators: only what the server sees anyway.

Omitted because records influence them: time spent on gradients and noise; time spent waiting, which other sites'
records influence; memory and CPU time; losses, sizes, ε of a dataset, and why a site refused.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hortus.protocol.plan import Cohort
from hortus.protocol.transport import AggregationChannel
from hortus.protocol.wire import aggregation_pb2 as wire

PUBLIC_PHASES = ("keys", "download")


class SiteCounts:
    """Counters that the agent's threads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()

    def add(self, name: str, number: int = 1) -> None:
        """Counts."""
        with self._lock:
            self._counts[name] += number

    def count(self, name: str) -> int:
        """Returns a count."""
        with self._lock:
            return self._counts[name]

    def seconds(self, phase: str) -> float:
        """Returns the seconds of a public phase."""
        with self._lock:
            return float(self._seconds[phase])

    @contextmanager
    def stopwatch(self, phase: str) -> Iterator[None]:
        """Times a phase if it is public; see `client.trainer.Stopwatch`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if phase in PUBLIC_PHASES:
                with self._lock:
                    self._seconds[phase] += time.perf_counter() - started  # type: ignore[assignment]


class CountedChannel:
    """An `AggregationChannel` that counts what goes through another."""

    def __init__(self, channel: AggregationChannel, counts: SiteCounts) -> None:
        self._channel = channel
        self._counts = counts

    def announce(self, request: wire.Announcement) -> wire.Announcements:
        """See `AggregationChannel`."""
        return self._channel.announce(request)

    def encapsulate(self, request: wire.Encapsulations) -> wire.Encapsulations:
        """See `AggregationChannel`."""
        return self._channel.encapsulate(request)

    def ready(self, request: wire.ReadyRequest) -> wire.Turn:
        """See `AggregationChannel`."""
        return self._channel.ready(request)

    def adapter(self, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """See `AggregationChannel`."""
        for chunk in self._channel.adapter(request):
            self._counts.add("downloaded", len(chunk.words))
            yield chunk

    def upload(self, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """See `AggregationChannel`."""

        def counted() -> Iterator[wire.UploadPart]:
            for part in parts:
                self._counts.add("uploaded", len(part.chunk.words))
                yield part

        receipt = self._channel.upload(counted())
        self._counts.add("uploads")
        return receipt

    def progress(self, request: wire.UploadHeader) -> wire.UploadProgress:
        """See `AggregationChannel`."""
        return self._channel.progress(request)


def counting(
    connect: Callable[[Cohort], AbstractContextManager[AggregationChannel]], counts: SiteCounts
) -> Callable[[Cohort], AbstractContextManager[AggregationChannel]]:
    """Returns a way to connect that counts sessions, and what goes through their channels."""

    @contextmanager
    def connected(rules: Cohort) -> Iterator[AggregationChannel]:
        with connect(rules) as channel:
            counts.add("sessions")
            counts.add("open sessions")
            try:
                yield CountedChannel(channel, counts)
            finally:
                counts.add("open sessions", -1)

    return connected


class SiteCollector(Collector):
    """What a site shows.

    Args:
        counts: What it has counted.
        entries: Number of the ledger's last entry; whoever scrapes must not wait for a step to be charged.
        connected: Whether its relay runs.
    """

    def __init__(
        self, counts: SiteCounts, entries: Callable[[], int], connected: Callable[[], bool]
    ) -> None:
        self._counts = counts
        self._entries = entries
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        gauges = {
            "relay_up": ("Whether the relay to the server is running.", float(self._connected())),
            "sessions_open": (
                "Sessions that the site is in now.",
                self._counts.count("open sessions"),
            ),
            "ledger_entries": ("Entries of the ledger.", self._entries()),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"hortus_site_{name}", meaning, value=value)
        counters = {
            "sessions": ("Sessions joined.", "sessions"),
            "uploads": ("Masked vectors that the server received.", "uploads"),
            "uploaded_bytes": ("Masked vectors sent, in bytes.", "uploaded"),
            "downloaded_bytes": ("Adapters received, in bytes.", "downloaded"),
        }
        for name, (meaning, counted) in counters.items():
            value = self._counts.count(counted)
            yield CounterMetricFamily(f"hortus_site_{name}", meaning, value=value)
        phases = CounterMetricFamily(
            "hortus_site_phase_seconds",
            "Seconds in phases whose length no record influences.",
            labels=["phase"],
        )
        for phase in PUBLIC_PHASES:
            phases.add_metric([phase], self._counts.seconds(phase))
        yield phases
