"""One rule says which hosts are dialled through which proxy."""

import pytest

from hortus.runtime.errors import UsageError
from hortus.runtime.proxies import (
    Proxy,
    child_environment,
    direct_hosts,
    is_this_machine,
    proxy_for,
)

PROXY = "http://proxy.ward:3128"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"https_proxy": PROXY}, Proxy("https_proxy", "proxy.ward", 3128)),
        ({"HTTPS_PROXY": PROXY}, Proxy("HTTPS_PROXY", "proxy.ward", 3128)),
        ({"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:2"}, Proxy("http_proxy", "a", 1)),
        ({"http_proxy": "http://a:1", "grpc_proxy": "http://b:2"}, Proxy("grpc_proxy", "b", 2)),
        ({"grpc_proxy": "", "https_proxy": PROXY}, None),
        ({"https_proxy": " ", "HTTPS_PROXY": PROXY}, None),
        ({"https_proxy": "proxy.ward"}, Proxy("https_proxy", "proxy.ward", 80)),
        ({"https_proxy": "http://[fd00::1]:8/"}, Proxy("https_proxy", "fd00::1", 8)),
        ({"https_proxy": "http://a:b%40c@d:1"}, Proxy("https_proxy", "d", 1, "a:b%40c")),
    ],
)
def test_the_first_variable_that_is_set_names_the_proxy(
    environment: dict[str, str], expected: Proxy | None
) -> None:
    assert proxy_for("hub.example", environment) == expected


@pytest.mark.parametrize(
    ("exceptions", "direct"),
    [
        ("", []),
        ("hub.example", ["hub.example", "HUB.example", "a.hub.example"]),
        (".example , 10.0.0.7", ["hub.example", "a.hub.example", "HUB.example", "10.0.0.7"]),
        ("10.0.0.0/8,fd00::/8", ["10.0.0.7", "fd00::9"]),
        ("other, ", []),
        ("*", ["hub.example", "HUB.example", "a.hub.example", "10.0.0.7", "fd00::9"]),
    ],
)
def test_what_no_proxy_lists_is_dialled_directly(exceptions: str, direct: list[str]) -> None:
    environment = {"https_proxy": PROXY, "NO_PROXY": exceptions}
    for host in ("hub.example", "HUB.example", "a.hub.example", "10.0.0.7", "fd00::9"):
        assert (proxy_for(host, environment) is None) == (host in direct)
    assert proxy_for("hub.example", environment | {"no_grpc_proxy": ""}) is not None
    assert "" not in direct_hosts(environment)


@pytest.mark.parametrize(
    "value", ["https://proxy:1", "socks5://proxy:1", "http://", "http://proxy:port", "http://[::1"]
)
def test_what_is_no_http_proxy_is_named(value: str) -> None:
    with pytest.raises(UsageError, match="not the URL of an HTTP proxy") as caught:
        proxy_for("hub.example", {"https_proxy": value})
    assert caught.value.where == "https_proxy"
    assert "no_proxy" in (caught.value.remedy or "")
    assert proxy_for("127.0.0.1", {"https_proxy": value}) is None


def test_loopback_has_no_proxy() -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1"):
        assert is_this_machine(host)
        assert proxy_for(host, {"https_proxy": PROXY}) is None
    for host in ("hub.example", "10.0.0.7", "localhost.example", "::2"):
        assert not is_this_machine(host)
        assert proxy_for(host, {"https_proxy": PROXY}) is not None


def test_a_child_learns_the_proxy_alone() -> None:
    assert child_environment(None) == {}
    proxy = Proxy("grpc_proxy", "fd00::1", 8, "a:b")
    assert child_environment(proxy) == {
        "https_proxy": "http://a:b@[fd00::1]:8",
        "no_proxy": "localhost,127.0.0.1,::1",
    }
    assert b"Proxy-Authorization: Basic YTpiQGM=\r\n" in Proxy("", "a", 1, "a:b%40c").request("b:1")
