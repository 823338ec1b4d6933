"""Health, readiness and metrics: answered to who asks, and nothing but what was registered."""

import socket
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from fastapi.testclient import TestClient
from helpers.made_runs import SITES, make_consortium
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from hortus.parties.monitoring import CertificateCollector, Heartbeat, monitoring, monitoring_app
from hortus.runtime.errors import HortusError


def fine() -> None:
    return None


def client(
    alive: Callable[[], str | None] = fine, ready: Callable[[], str | None] = fine
) -> TestClient:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    return TestClient(monitoring_app(registry, alive, ready))


def test_a_process_that_lives_but_cannot_work_is_healthy_and_not_ready() -> None:
    web = client(ready=lambda: "no server answers")
    assert (web.get("/healthz").status_code, web.get("/healthz").text) == (200, "ok")
    assert (web.get("/readyz").status_code, web.get("/readyz").text) == (503, "no server answers")
    web = client(alive=lambda: "it hangs")
    assert [web.get(path).status_code for path in ("/healthz", "/readyz")] == [503, 503]
    assert client().get("/readyz").status_code == 200


def test_metrics_are_those_of_the_registry_alone() -> None:
    answer = client().get("/metrics")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert names == {"things", "things_created"}, "no process_*, python_* of the default registry"
    assert answer.headers["content-type"].startswith("text/plain")


def test_nothing_can_be_sent() -> None:
    web = client()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert {web.request(m, path).status_code for m in ("POST", "PUT", "DELETE")} == {405}
    assert {web.get(path).status_code for path in ("/", "/docs", "/openapi.json")} == {404}


def test_it_listens_only_where_and_as_long_as_it_is_told() -> None:
    with monitoring(None, CollectorRegistry(), fine, fine) as port:
        assert port is None
    with monitoring("127.0.0.1:0", CollectorRegistry(), fine, fine) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(HortusError, match=address),
            monitoring(address, CollectorRegistry(), fine, fine),
        ):
            pass


def test_a_loop_that_stands_still_is_noticed() -> None:
    now = [0.0]
    heartbeat = Heartbeat(lambda: now[0])
    now[0] = 119.0
    assert heartbeat.reason() is None
    now[0] = 121.0
    assert heartbeat.reason() == "no sign of life for 121 seconds"
    heartbeat.beat()
    assert heartbeat.reason() is None


def test_certificates_tell_their_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    consortium = make_consortium(tmp_path_factory.mktemp("run"))
    for files, whose in (
        (consortium.site("ash"), {"this site", "the consortium's authority"}),
        (consortium.server, {"the server", "the consortium's authority", *SITES}),
    ):
        (family,) = CertificateCollector(files).collect()
        ends = {sample.labels["whose"]: sample.value for sample in family.samples}
        assert family.name == "hortus_certificate_expiry_timestamp_seconds"
        assert set(ends) == whose
        days = (min(ends.values()) - datetime.now(UTC).timestamp()) / 86400
        assert 820 < days < 826
