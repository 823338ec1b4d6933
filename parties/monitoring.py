"""Health, readiness and metrics of a process over HTTP, for monitoring.

Only public quantities may be counted: what an honest server sees anyway, and nothing that a record
influences. Hortus therefore uses its own registry: prometheus_client's default also reports the memory and CPU
time of the process, both of which grow with the units that were sampled.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request

from hortus.parties.expiry import expiries
from hortus.parties.folders import ServerFiles, SiteFiles, host_and_port
from hortus.runtime.errors import HortusError

_CONNECTIONS = 20
_FAREWELL_SECONDS = 1
# A process whose loop has not moved for this long hangs; starting one of Flower's programs takes seconds.
_SILENCE_SECONDS = 120.0

Reason = Callable[[], str | None]


class Heartbeat:
    """Whether a loop is still running.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Records that it is."""
        self._last = self._clock()

    def reason(self) -> str | None:
        """Returns None, or for how long it has not been."""
        silence = self._clock() - self._last
        return None if silence < _SILENCE_SECONDS else f"no sign of life for {silence:.0f} seconds"


class CertificateCollector(Collector):
    """When the certificates of a party end.

    Args:
        files: The party's folder.
    """

    def __init__(self, files: SiteFiles | ServerFiles) -> None:
        self._files = files

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        ends = GaugeMetricFamily(
            "hortus_certificate_expiry_timestamp_seconds",
            "End of a TLS certificate, seconds since the epoch.",
            labels=["whose"],
        )
        for one in expiries(self._files):
            ends.add_metric([one.whose], one.expires.astimezone(UTC).timestamp())
        yield ends


def monitoring_app(registry: CollectorRegistry, alive: Reason, ready: Reason) -> FastAPI:
    """Makes the application: GET /healthz, /readyz and /metrics.

    Args:
        registry: What is counted.
        alive: Why the process should be restarted; None if it should not.
        ready: Why it cannot do its work at the moment; None if it can.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def health() -> Response:
        return _answer(alive())

    @app.get("/readyz")
    def readiness() -> Response:
        return _answer(alive() or ready())

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": kind})

    return app


@contextmanager
def monitoring(
    address: str | None, registry: CollectorRegistry, alive: Reason, ready: Reason
) -> Iterator[int | None]:
    """Answers until the block is left; yields the port, or None where no address is configured.

    Args:
        address: Host and port; port 0 takes a free one.
        registry: See `monitoring_app`.
        alive: See `monitoring_app`.
        ready: See `monitoring_app`.

    Raises:
        HortusError: It cannot be listened on.
    """
    if address is None:
        yield None
        return
    listener = _listening(address)
    config = uvicorn.Config(
        monitoring_app(registry, alive, ready),
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_FAREWELL_SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="monitoring", daemon=True
    )
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _answer(reason: str | None) -> Response:
    return PlainTextResponse("ok" if reason is None else reason, 200 if reason is None else 503)


def _listening(address: str) -> socket.socket:
    host, port = host_and_port(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise HortusError(
            f"health and metrics cannot be served on {address}: {error}",
            remedy="Choose another address for `monitoring`, or omit it.",
        ) from error
