"""Tests whether a server can be reached, step by step (name, port, TLS, clock), and explains what fails.

The programs that really connect (Flower's SuperNode, gRPC) say little about why they fail. The steps here are
the same, one at a time, and send nothing that the server acts on.
"""

import contextlib
import email.utils
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from hortus.protocol.consortium import TlsFiles, host_and_port
from hortus.protocol.surroundings import proxy_variable

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
        tried: False if nothing was tested because the connection goes through a proxy.
    """

    problem: str = ""
    remedy: str = ""
    ahead: float | None = None
    tried: bool = True


class _StoppedError(Exception):
    """A step failed; carries the problem and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.found = Reached(problem, remedy)


def resolve(host: str) -> Reached:
    """Looks up a host's address."""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a valid host name"
        return Reached(
            f"no address was found for the name {host}: {why}",
            "Check the address on the server's card, and this machine's DNS or /etc/hosts.",
        )
    return Reached()


def knock(address: str, seconds: float = _SECONDS) -> Reached:
    """Opens a connection to a port and closes it again."""
    host, port = host_and_port(address)
    if variable := proxy_variable(host):
        return Reached(f"not tried: {variable} names a proxy", tried=False)
    try:
        _dial(host, port, seconds).close()
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
    host, port = host_and_port(address)
    if variable := proxy_variable(host):
        return Reached(f"not tried: {variable} names a proxy", tried=False)
    try:
        with _stopping(address, now), _dial(host, port, _SECONDS) as plain:
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
        f"this machine's clock is {in_words(abs(ahead))} {side} the server's: its SuperLink rejects "
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


def _dial(host: str, port: int, seconds: float) -> socket.socket:
    if (found := resolve(host)).problem:
        raise _StoppedError(found.problem, found.remedy)
    try:
        return socket.create_connection((host, port), timeout=seconds)
    except TimeoutError:
        raise _StoppedError(
            f"nothing answers at {host}, port {port}",
            "Is a firewall in between? Sites dial out: it must allow this port.",
        ) from None
    except ConnectionRefusedError:
        raise _StoppedError(
            f"nothing listens at {host}, port {port}",
            "Is the server running (hortus server PLAN)? Is this the port on its card?",
        ) from None
    except OSError as error:
        raise _StoppedError(
            f"{host}, port {port}, is unreachable: {error.strerror or error}",
            "Check this machine's network, and the address on the server's card.",
        ) from None


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
            f"the program at {address} does not speak TLS as the server does: {_spelled(error)}",
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
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MOST_BYTES:
        if not (part := secured.recv(_MOST_BYTES)):
            break
        answer += part
    for line in answer.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            with contextlib.suppress(ValueError):
                return email.utils.parsedate_to_datetime(value.strip())
    return None
