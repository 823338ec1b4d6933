"""Tests whether a server can be reached, step by step (name, proxy, port, TLS, clock), and explains what fails.

The programs that really connect (Flower's SuperNode, gRPC) say little about why they fail. The steps here are
the same, one at a time, and send nothing that the server acts on.
"""

import contextlib
import email.utils
import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from hortus.parties.folders import TlsFiles, host_and_port
from hortus.runtime.errors import UsageError
from hortus.runtime.proxies import Proxy, proxy_for

_SECONDS = 5.0
_MOST_BYTES = 2**14
# What Flower allows between the site's clock and the server's: a signed time may be so old, or so far ahead.
MOST_BEHIND, MOST_AHEAD = 300.0, 5.0


@dataclass(frozen=True, slots=True)
class Reached:
    """The result of a test.

    Attributes:
        problem: What failed, in one sentence; empty if nothing did.
        remedy: What to do about it.
        ahead: Seconds by which this machine's clock is ahead of the server's, which sent its time over the
            authenticated connection; None if it sent none.
    """

    problem: str = ""
    remedy: str = ""
    ahead: float | None = None


class _StoppedError(Exception):
    """A step failed; carries the problem and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.found = Reached(problem, remedy)


def resolve(host: str, source: str = "the address on the server's card") -> Reached:
    """Looks up a host's address.

    Args:
        host: The name.
        source: Where the name was found, for the remedy.
    """
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a valid host name"
        return Reached(
            f"no address was found for the name {host}: {why}",
            f"Check {source}, and this machine's DNS or /etc/hosts.",
        )
    return Reached()


def knock(address: str) -> Reached:
    """Opens a connection to a port, through the proxy if there is one, and closes it again."""
    try:
        _dial(address).close()
    except _StoppedError as stopped:
        return stopped.found
    return Reached()


def greet(address: str, tls: TlsFiles, now: datetime, *, speaks_http: bool) -> Reached:
    """Makes the TLS handshake as a site does, trusting only the pinned authority.

    Args:
        address: Host and port.
        tls: The site's certificate, presented if the server asks for one, and the authority.
        now: This machine's time.
        speaks_http: True: an HTTP request asks for the server's time (Flower's SuperLink). False: the
            connection only shows whether the server accepts the site's certificate (the aggregation service).
    """
    host, _ = host_and_port(address)
    try:
        with _stopping(address, now), _dial(address) as plain:
            context = _context(tls, speaks_http=speaks_http)
            with context.wrap_socket(plain, server_hostname=host) as secured:
                if not speaks_http:
                    # In TLS 1.3 a server rejects a certificate only after the handshake: by an alert, or by silence.
                    return (
                        Reached()
                        if secured.recv(1)
                        else _not_taken(address, "it closed the connection")
                    )
                asked = datetime.now(now.tzinfo)
                told = _date(secured, host)
    except _StoppedError as stopped:
        return stopped.found
    if told is None:
        return Reached()
    ahead = (asked - told).total_seconds()
    # The server sends whole seconds, rounded down.
    return of_clock(ahead - 1.0 if ahead > 0 else ahead)


def of_clock(ahead: float) -> Reached:
    """Judges whether two clocks are close enough.

    Args:
        ahead: Seconds by which this machine's clock is ahead of the server's.
    """
    if -MOST_BEHIND <= ahead <= MOST_AHEAD:
        return Reached(ahead=ahead)
    side = "ahead of" if ahead > 0 else "behind"
    return Reached(
        f"this machine's clock is {in_words(abs(ahead))} {side} the server's, whose SuperLink rejects "
        "timestamps that far off",
        "Correct the clock that is wrong, preferably with NTP (timedatectl set-ntp true).",
        ahead,
    )


def in_words(seconds: float) -> str:
    """Formats a duration: 40 s, 5 min, 3.2 h, 4 days."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


def of_certificate(message: str, address: str, now: datetime) -> Reached:
    """Explains OpenSSL's verdict on a server's certificate.

    Args:
        message: Such as "unable to get local issuer certificate".
        address: The server that presented it.
        now: This machine's time.
    """
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    said = message.lower()
    if "not yet valid" in said:
        return Reached(
            f"the certificate of {address} is not valid yet, and {clock}",
            "Correct the clock that is wrong, this machine's or the server's, preferably with NTP.",
        )
    if "expired" in said:
        return Reached(
            f"the certificate of {address} has expired, and {clock}",
            "If the clock is right, the server's operator renews it (hortus rotate tls SERVER_DIR) and restarts it.",
        )
    if "mismatch" in said or "not valid for" in said:
        return Reached(
            f"the certificate of {address} is for another name or address",
            "Use the name on the server's card (superlink and aggregation in site.yaml), or have the server's "
            "operator add this one: `host` in server.yaml, then hortus rotate tls SERVER_DIR.",
        )
    return Reached(
        f"{address} presents a certificate from a different authority than the one pinned in tls/ca.crt",
        "Another server listens there, a proxy in between inspects TLS, or the server has a new authority: "
        "hortus roster add SITE_DIR server.card.yaml pins its current card.",
    )


def _dial(address: str) -> socket.socket:
    """Opens a connection to a server as a site does."""
    host, port = host_and_port(address)
    try:
        proxy = proxy_for(host, os.environ)
    except UsageError as error:
        raise _StoppedError(f"{error.where}: {error.problem}", error.remedy or "") from None
    if proxy is None:
        _find(resolve(host))
        return _connect(
            (host, port),
            f"{host}, port {port}",
            silent="Is a firewall in between? Sites dial out: it must allow this port.",
            closed="Is the server running (hortus server PLAN)? Is this the port on its card?",
        )
    _find(resolve(proxy.host, proxy.variable))
    remedy = f"Is {proxy.variable} right, and the proxy running? Or name {host} in no_proxy."
    where = f"{proxy.address}, the proxy that {proxy.variable} names"
    connection = _connect((proxy.host, proxy.port), where, silent=remedy, closed=remedy)
    try:
        _ask(connection, proxy, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _find(found: Reached) -> None:
    if found.problem:
        raise _StoppedError(found.problem, found.remedy)


def _connect(where: tuple[str, int], named: str, *, silent: str, closed: str) -> socket.socket:
    """Opens a TCP connection.

    Args:
        where: Host and port.
        named: What listens there.
        silent: What to do if nothing answers.
        closed: What to do if nothing listens.
    """
    try:
        return socket.create_connection(where, timeout=_SECONDS)
    except TimeoutError:
        raise _StoppedError(f"nothing answers at {named}", silent) from None
    except ConnectionRefusedError:
        raise _StoppedError(f"nothing listens at {named}", closed) from None
    except OSError as error:
        raise _StoppedError(
            f"{named}, is unreachable: {error.strerror or error}",
            f"Check this machine's network. {closed}",
        ) from None


def _ask(connection: socket.socket, proxy: Proxy, address: str) -> None:
    """Has a proxy connect to a server."""
    named = f"the proxy {proxy.address} ({proxy.variable})"
    try:
        connection.sendall(proxy.request(address))
        answer = _header(connection)
    except TimeoutError:
        raise _StoppedError(
            f"{named} does not answer a request to connect to {address}",
            "The proxy may be trying in vain: is the server running, and may the proxy reach its port?",
        ) from None
    except OSError as error:
        raise _StoppedError(
            f"{named} closed the connection: {error.strerror or error}",
            f"Is {proxy.variable} right? Another program may listen there.",
        ) from None
    version, _, rest = answer.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise _StoppedError(
            f"the program at {proxy.address} ({proxy.variable}) does not answer as an HTTP proxy does",
            f"Is {proxy.variable} right? Another program may listen there.",
        )
    if (status := int(rest[:3])) // 100 != 2:
        raise _StoppedError(
            f"{named} does not connect to {address}: {_status(status)}", _remedy(status, proxy)
        )


def _status(status: int) -> str:
    """Names an HTTP status in the words of the standard, not in those that somebody sent."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _remedy(status: int, proxy: Proxy) -> str:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        wrong = "are wrong" if proxy.credentials else "are missing"
        return f"Name and password {wrong}: write {proxy.variable} as http://NAME:PASSWORD@{proxy.address}."
    if status in (
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    ):
        return (
            "The proxy does not reach the server: is it running, and may the proxy reach its port?"
        )
    return (
        "The proxy's operator allows CONNECT to this host and port, or no_proxy names the host if it can be "
        "reached directly."
    )


def _context(tls: TlsFiles, *, speaks_http: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1" if speaks_http else "h2"])
    if not speaks_http:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


@contextlib.contextmanager
def _stopping(address: str, now: datetime) -> Iterator[None]:
    """Explains what a handshake raises."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        found = of_certificate(error.verify_message, address, now)
        raise _StoppedError(found.problem, found.remedy) from None
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or ""):
            found = _not_taken(address, _spelled(error))
            raise _StoppedError(found.problem, found.remedy) from None
        raise _StoppedError(
            f"the program at {address} does not use TLS as the server does: {_spelled(error)}",
            "Is it the right port? Another program may listen there.",
        ) from None
    except TimeoutError:
        raise _StoppedError(
            f"{address} accepts connections but does not answer",
            "Is it the right port? The server may hang, or another program may listen there.",
        ) from None
    except OSError as error:
        raise _StoppedError(
            f"{address} closed the connection: {error.strerror or error}",
            "Is it the right port? Another program, or a firewall, may have answered.",
        ) from None


def _not_taken(address: str, why: str) -> Reached:
    return Reached(
        f"{address} does not accept this site's certificate: {why}",
        "hortus status SITE_DIR shows when it expires; the server's card contains a new one: "
        "hortus roster add SITE_DIR server.card.yaml.",
    )


def _spelled(error: ssl.SSLError) -> str:
    return (error.reason or "unknown").replace("_", " ").lower()


def _date(secured: ssl.SSLSocket, host: str) -> datetime | None:
    """Asks an HTTP server for the time."""
    secured.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = _header(secured)
    for line in answer.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            with contextlib.suppress(ValueError):
                return email.utils.parsedate_to_datetime(value.strip())
    return None


def _header(connection: socket.socket) -> bytes:
    """Reads until an empty line, the other end's last byte, or the limit.

    Raises:
        TimeoutError: It takes too long, however often a byte arrives.
    """
    answer, deadline = b"", time.monotonic() + _SECONDS
    while b"\r\n\r\n" not in answer and len(answer) < _MOST_BYTES:
        if time.monotonic() > deadline:
            raise TimeoutError
        if not (part := connection.recv(_MOST_BYTES)):
            break
        answer += part
    return answer
