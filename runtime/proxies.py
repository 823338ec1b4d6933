"""The proxy that a site's network asks for, chosen by one rule for both of its connections.

gRPC and Flower's HTTP client read the environment by different rules. The choice is made here, and each of the two
is given the result.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

from hortus.runtime.errors import UsageError

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HTTP_PORT = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, which is asked to CONNECT.

    Attributes:
        variable: The variable of the environment that names it.
        host: Its name or address; an IPv6 address without brackets.
        port: Its TCP port.
        credentials: What precedes the @ in its URL, as written there; empty if nothing does.
    """

    variable: str
    host: str
    port: int
    credentials: str = ""

    @property
    def address(self) -> str:
        """Host and port; the host of an IPv6 address is in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL for a program that dials through it, with the credentials."""
        at = f"{self.credentials}@" if self.credentials else ""
        return f"http://{at}{self.address}"

    def request(self, address: str) -> bytes:
        """Writes the request to open a connection.

        Args:
            address: Host and port of the server.
        """
        lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
        if self.credentials:
            basic = base64.b64encode(unquote(self.credentials).encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {basic}")
        return "\r\n".join([*lines, "", ""]).encode()


def proxy_for(host: str, environment: Mapping[str, str]) -> Proxy | None:
    """Returns the proxy through which a host is dialled; None if it is dialled directly.

    The first variable that is set counts, and an empty one means none. This machine is always dialled directly.

    Args:
        host: A name or address, without its port.
        environment: Such as `os.environ`.

    Raises:
        UsageError: The variable's value is not the URL of an HTTP proxy.
    """
    variable, value = _first(_VARIABLES, environment)
    if not value or is_this_machine(host) or _is_direct(host, direct_hosts(environment)):
        return None
    url = _split(value)
    if url is None or not url.hostname:
        raise UsageError(
            "its value is not the URL of an HTTP proxy",
            where=variable,
            remedy="Write http://HOST:PORT (the connection to the server is TLS inside the proxy's), leave the "
            f"variable empty, or name {host} in no_proxy.",
        )
    credentials = url.netloc.rpartition("@")[0]
    return Proxy(variable, url.hostname, url.port or _HTTP_PORT, credentials)


def direct_hosts(environment: Mapping[str, str]) -> list[str]:
    """Returns what the environment excepts from its proxy: ends of names, addresses and subnets; * is everything."""
    _, value = _first(_EXCEPTIONS, environment)
    return [entry for part in value.split(",") if (entry := part.strip())]


def child_environment(proxy: Proxy | None) -> dict[str, str]:
    """Returns the variables for a program of Flower's that dials one host elsewhere, and this machine."""
    if proxy is None:
        return {}
    return {"https_proxy": proxy.url, "no_proxy": ",".join(_LOOPBACK)}


def is_this_machine(host: str) -> bool:
    """Whether a host is loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, str]:
    """Returns the first variable that is set, in lower case or else in upper case, and its value."""
    for name in names:
        for spelled in (name, name.upper()):
            if spelled in environment:
                return spelled, environment[spelled].strip()
    return "", ""


def _split(value: str) -> SplitResult | None:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        _ = url.port  # raises if it is not a number
    except ValueError:
        return None
    return url if url.scheme == "http" else None


def _is_direct(host: str, entries: list[str]) -> bool:
    # As gRPC matches them: it also applies the environment's list itself.
    return any(
        entry == "*" or host.lower().endswith(entry.lower()) or _is_within(host, entry)
        for entry in entries
    )


def _is_within(host: str, subnet: str) -> bool:
    try:
        return ip_address(host) in ip_network(subnet, strict=False)
    except ValueError:
        return False
