"""A site's connection in a network with a proxy: through it outside, past it on this machine."""

import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hortus.client.channel import dialling
from hortus.parties.folders import ServerConfig, SiteFiles
from hortus.parties.founding import create_consortium
from hortus.protocol.plan import Cohort
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import ProtocolError

RULES = Cohort(join_deadline=1)


@pytest.fixture
def files(tmp_path: Path) -> SiteFiles:
    (tmp_path / "ash.csv").touch()
    policy = Policy(budget=Budget(epsilon=1, delta=1e-5))
    address = ServerConfig(aggregation="127.0.0.1:9443", superlink="127.0.0.1:9092")
    consortium = create_consortium(
        tmp_path / "all", {"ash": tmp_path / "ash.csv"}, {"ash": policy}, address, datetime.now(UTC)
    )
    return consortium.site("ash")


class Listener:
    """Accepts connections and keeps the first bytes of each."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                self.heard.append(connection.recv(200))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("variable", ["https_proxy", "http_proxy", "grpc_proxy"])
def test_a_server_elsewhere_is_asked_for_through_the_proxy(
    files: SiteFiles, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Listener()
    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    with (
        pytest.raises(ProtocolError, match=f"{variable} names a proxy"),
        dialling("203.0.113.7:9443", files.tls, RULES),
    ):
        pass
    proxy.close()
    assert proxy.heard[0].startswith(b"CONNECT 203.0.113.7:9443 HTTP/1.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_dialled_past_the_proxy(
    files: SiteFiles, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = Listener(), Listener()
    for variable in ("https_proxy", "http_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    with (
        pytest.raises(ProtocolError) as caught,
        dialling(f"{host}:{server.port}", files.tls, RULES),
    ):
        pass
    proxy.close()
    server.close()
    assert proxy.heard == []
    assert server.heard[0][:1] == b"\x16"  # TLS, straight away
    assert "proxy" not in str(caught.value)
