"""Why a server cannot be reached is said in one sentence, with a remedy, for each step of the way."""

import base64
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from helpers.connect_proxy import NAME, connect_proxy

from hortus.client.channel import dialling
from hortus.parties.folders import Consortium, ServerConfig
from hortus.parties.founding import create_consortium
from hortus.parties.reach import greet, in_words, knock, of_certificate, of_clock, resolve
from hortus.protocol.plan import Cohort
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.proxies import child_environment, proxy_for
from hortus.server.sums.service import Hub, serving

NOW = datetime.now(UTC)
POLICY = Policy(budget=Budget(epsilon=1.0, delta=1e-5))


def make(directory: Path, name: str, now: datetime = NOW) -> Consortium:
    server = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2")
    return create_consortium(directory / name, {"ash": Path("x")}, {"ash": POLICY}, server, now)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make(tmp_path_factory.mktemp("own"), "c")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make(tmp_path_factory.mktemp("foreign"), "c")


@contextmanager
def answering(consortium: Consortium | None, answer: bytes) -> Iterator[str]:
    """One connection, with a server's TLS where there is a consortium."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            plain, _ = listener.accept()
            with plain:
                if consortium is None:
                    plain.recv(100)
                    plain.sendall(answer)
                    return
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls = consortium.server.tls
                context.load_cert_chain(tls.certificate, tls.key)
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(4096)
                    secured.sendall(answer)
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join(5)


def http(moment: datetime) -> bytes:
    return (
        f"HTTP/1.1 404 Not Found\r\nDate: {format_datetime(moment, usegmt=True)}\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        (0.0, ""),
        (3.0, ""),
        (-200.0, ""),
        (40.0, " s ahead of the server's"),
        (7 * 3600.0, "7 h ahead of the server's"),
        (-3 * 3600.0, "3 h behind the server's"),
        (-400 * 86_400.0, "400 days behind the server's"),
    ],
)
def test_clocks_are_compared_by_a_time_that_came_over_tls(
    own: Consortium, ahead: float, told: str
) -> None:
    """Of the SuperLink, whose answer tells the time."""
    answer = http(datetime.now(UTC) - timedelta(seconds=ahead))
    with answering(own, answer) as address:
        found = greet(address, own.site("ash").tls, NOW, speaks_http=True)
    assert found.ahead == pytest.approx(ahead, abs=2.5)
    assert told in found.problem
    assert bool(found.problem) == bool(told) == ("NTP" in found.remedy)


def test_each_step_of_the_way_has_its_own_words(own: Consortium, foreign: Consortium) -> None:
    tls = own.site("ash").tls
    with answering(foreign, b"") as address:
        found = greet(address, tls, NOW, speaks_http=True)
        assert "a different authority than the one pinned" in found.problem
    with answering(None, b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert "does not use TLS" in greet(address, tls, NOW, speaks_http=True).problem
    with answering(None, b"") as address:
        assert "closed the connection" in greet(address, tls, NOW, speaks_http=True).problem
    with answering(own, http(datetime.now(UTC))) as address:
        named = address.replace("127.0.0.1", "localhost")
        assert not greet(named, tls, NOW, speaks_http=True).problem
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not knock(f"127.0.0.1:{port}").problem
    assert "nothing listens at 127.0.0.1" in knock(f"127.0.0.1:{port}").problem


@pytest.mark.parametrize(
    "name", ["no-such-host.invalid", "a" * 64 + ".invalid", "b\u00fccher..invalid"]
)
def test_a_name_that_leads_nowhere_is_named(name: str) -> None:
    assert f"no address was found for the name {name}" in resolve(name).problem


def test_the_aggregation_service_takes_the_certificates_of_its_own_sites_alone(
    own: Consortium, foreign: Consortium
) -> None:
    hub: Hub = object()  # type: ignore[assignment] - no call is made
    tls = own.site("ash").tls
    with serving(hub, own.server.tls, "127.0.0.1:0", 1) as port:
        address = f"127.0.0.1:{port}"
        assert not greet(address, tls, NOW, speaks_http=False).problem
        stranger = replace(foreign.site("ash").tls, authority=tls.authority)
        found = greet(address, stranger, NOW, speaks_http=False)
        assert "does not accept this site's certificate" in found.problem


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("certificate is not yet valid", "is not valid yet, and this machine's clock says 2026"),
        ("certificate has expired", "has expired, and this machine's clock says 2026"),
        ("Hostname mismatch, certificate is not valid for 'vm'.", "for another name or address"),
        ("IP address mismatch, certificate is not valid for '10.0.0.1'.", "another name"),
        ("unable to get local issuer certificate", "a different authority"),
        ("self-signed certificate in certificate chain", "a different authority"),
    ],
)
def test_what_openssl_says_of_a_certificate_is_put_into_words(said: str, told: str) -> None:
    found = of_certificate(said, "hub:9092", datetime(2026, 11, 27, tzinfo=UTC))
    assert told in found.problem
    assert found.remedy


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Its server's certificate is for a name that only the proxy resolves."""
    server = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:2", host=NAME)
    directory = tmp_path_factory.mktemp("named") / "c"
    return create_consortium(directory, {"ash": Path("x")}, {"ash": POLICY}, server, NOW)


def at_the_proxys(address: str) -> str:
    return f"{NAME}:{address.rpartition(':')[2]}"


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY"])
def test_a_server_is_reached_through_a_proxy(
    named: Consortium, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the checks, and by the two clients that they stand for."""
    tls = named.site("ash").tls
    hub: Hub = object()  # type: ignore[assignment] - no call is made
    with connect_proxy() as proxy, answering(named, http(datetime.now(UTC))) as address:
        monkeypatch.setenv(variable, proxy.url)
        found = greet(at_the_proxys(address), tls, NOW, speaks_http=True)
        assert (found.problem, found.ahead is None) == ("", False)
        with serving(hub, named.server.tls, "127.0.0.1:0", 1) as port:
            aggregation = f"{NAME}:{port}"
            assert not knock(aggregation).problem
            assert not greet(aggregation, tls, NOW, speaks_http=False).problem
            with dialling(aggregation, tls, Cohort(join_deadline=5)):
                pass
        with answering(named, http(datetime.now(UTC))) as superlink:
            environment = child_environment(proxy_for(NAME, os.environ))
            monkeypatch.delenv(variable)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            context = ssl.create_default_context(cafile=str(tls.authority))
            assert (
                httpx.get(f"https://{at_the_proxys(superlink)}", verify=context).status_code == 404
            )
    assert len(proxy.requests) == 5
    assert all(request.startswith(f"CONNECT {NAME}:") for request in proxy.requests)


@pytest.mark.parametrize(
    ("answer", "told", "remedy"),
    [
        (
            b"HTTP/1.1 403 <b>no</b>\r\n\r\n",
            "does not connect to hub.example:1: 403 Forb",
            "CONNECT",
        ),
        (b"HTTP/1.0 405 x\r\n\r\n", "405 Method Not Allowed", "no_proxy"),
        (b"HTTP/1.1 407 x\r\n\r\n", "407 Proxy Authentication", "missing: write https_proxy as"),
        (b"HTTP/1.1 504 x\r\n\r\n", "504 Gateway Timeout", "does not reach the server"),
        (b"HTTP/1.1 799 x\r\n\r\n", ": 799", "CONNECT"),
        (b"SSH-2.0-x\r\n\r\n", "does not answer as an HTTP proxy does", "Is https_proxy right"),
        (b"HTTP/1.1 2\r\n\r\n", "does not answer as an HTTP proxy does", "Is https_proxy right"),
        (b"", "does not answer as an HTTP proxy does", "Is https_proxy right"),
    ],
)
def test_what_fails_at_the_proxy_is_named(
    own: Consortium, answer: bytes, told: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(answer) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        found = greet(f"{NAME}:1", own.site("ash").tls, NOW, speaks_http=True)
    assert told in found.problem
    assert f"127.0.0.1:{proxy.port} (https_proxy)" in found.problem
    assert remedy in found.remedy


def test_a_way_is_told_step_by_step_also_through_a_proxy(
    named: Consortium, foreign: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = named.site("ash").tls
    with connect_proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//ash:secret@"))
        assert "502 Bad Gateway" in knock(f"{NAME}:1").problem
        basic = base64.b64encode(b"ash:secret").decode()
        assert f"\r\nProxy-Authorization: Basic {basic}\r\n" in proxy.requests[0]
        with answering(foreign, b"") as address:
            found = greet(at_the_proxys(address), tls, NOW, speaks_http=True)
            assert "a proxy in between inspects TLS" in found.remedy
    found = knock(f"{NAME}:1")
    assert f"nothing listens at 127.0.0.1:{proxy.port}, the proxy that https_proxy" in found.problem
    assert "secret" not in found.problem + found.remedy
    for value, told in (
        ("http://nowhere.invalid:1", "no address was found for the name nowhere.invalid"),
        ("socks5://proxy:1", "https_proxy: its value is not the URL of an HTTP proxy"),
    ):
        monkeypatch.setenv("https_proxy", value)
        assert told in knock(f"{NAME}:1").problem
    with answering(named, http(datetime.now(UTC))) as address:
        assert not knock(address).problem, "this machine is dialled directly"


def test_a_proxy_that_keeps_silent_is_not_waited_for(
    own: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hortus.parties.reach._SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer a request to connect to hub" in knock(f"{NAME}:1").problem


def test_lengths_of_time_are_written_as_people_do() -> None:
    assert [in_words(s) for s in (4, 90, 600, 3600, 80_000, 1e6)] == [
        "4 s",
        "90 s",
        "10 min",
        "1 h",
        "22.2 h",
        "11.6 days",
    ]
    assert not of_clock(5.0).problem
    assert of_clock(5.5).problem
