"""Whether a server can be reached, step by step, and in words where it cannot: name, port, TLS, clock.

What dials the server in earnest (Flower's SuperNode, gRPC) says little about why it fails. Here the same way is
gone on foot, and nothing is sent that the server acts on.
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
    """How far one came.

    Attributes:
        problem: Why no further, in one sentence; empty: all the way.
        remedy: What to do about it.
        ahead: Seconds that this machine's clock is ahead of the server's, by a time that came over the
            authenticated connection; None: it told none.
        tried: False where only the program itself can tell, since a proxy lies in between.
    """

    problem: str = ""
    remedy: str = ""
    ahead: float | None = None
    tried: bool = True


class _StoppedError(Exception):
    """The way ends here; with the problem and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.found = Reached(problem, remedy)


def resolve(host: str) -> Reached:
    """Asks for the address of a host's name."""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is no name of a host"
        return Reached(
            f"the name {host} leads to no address: {why}",
            "Check the address on the server's card, and this machine's DNS or /etc/hosts.",
        )
    return Reached()


def knock(address: str, seconds: float = _SECONDS) -> Reached:
    """Opens a connection to a port, and closes it."""
    host, port = host_and_port(address)
    if variable := proxy_variable(host):
        return Reached(f"not tried: {variable} names a proxy", tried=False)
    try:
        _dial(host, port, seconds).close()
    except _StoppedError as stopped:
        return stopped.found
    return Reached()


def greet(address: str, tls: TlsFiles, now: datetime, *, speaks_http: bool) -> Reached:
    """Goes through the TLS handshake as a site does, with the pinned authority.

    Args:
        address: Host and port.
        tls: The site's certificate, shown where it is asked for, and the authority.
        now: This machine's time.
        speaks_http: Whether a request tells the server's time (Flower's SuperLink), or the connection is only
            watched for whether the site's certificate is taken (the aggregation service).
    """
    host, port = host_and_port(address)
    if variable := proxy_variable(host):
        return Reached(f"not tried: {variable} names a proxy", tried=False)
    try:
        with _stopping(address, now), _dial(host, port, _SECONDS) as plain:
            context = _context(tls, speaks_http=speaks_http)
            with context.wrap_socket(plain, server_hostname=host) as secured:
                if not speaks_http:
                    # Whose certificate is not taken learns of it only now: by an alert, or by no word at all.
                    return Reached() if secured.recv(1) else _not_taken(address, "it hung up")
                asked = datetime.now(now.tzinfo)
                told = _date(secured, host)
    except _StoppedError as stopped:
        return stopped.found
    if told is None:
        return Reached()
    ahead = (asked - told).total_seconds()
    # The server's time comes in whole seconds, rounded down.
    return of_clock(ahead - 1.0 if ahead > 0 else ahead)


def of_clock(ahead: float) -> Reached:
    """Says whether two clocks are near enough.

    Args:
        ahead: Seconds that this machine's is ahead of the server's.
    """
    if -MOST_BEHIND <= ahead <= MOST_AHEAD:
        return Reached(ahead=ahead)
    side = "ahead of" if ahead > 0 else "behind"
    return Reached(
        f"this machine's clock is {in_words(abs(ahead))} {side} the server's: its SuperLink takes no "
        "signed time that far off",
        "Set the clock that is wrong, best by NTP (timedatectl set-ntp true).",
        ahead,
    )


def in_words(seconds: float) -> str:
    """Writes a length of time: 40 s, 5 min, 3.2 h, 4 days."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"


def of_certificate(message: str, address: str, now: datetime) -> Reached:
    """Puts what OpenSSL says of a server's certificate into words.

    Args:
        message: Such as "unable to get local issuer certificate".
        address: Whom it was shown by.
        now: This machine's time.
    """
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    said = message.lower()
    if "not yet valid" in said:
        return Reached(
            f"the certificate of {address} is not valid yet, and {clock}",
            "Set the clock that is wrong, this machine's or the server's, best by NTP.",
        )
    if "expired" in said:
        return Reached(
            f"the certificate of {address} has expired, and {clock}",
            "If the clock is right, the server renews it: hortus rotate tls SERVER_DIR, then start it again.",
        )
    if "mismatch" in said or "not valid for" in said:
        return Reached(
            f"the certificate of {address} is for another name or address",
            "Dial the server under the name on its card (superlink and aggregation in site.yaml), or let the "
            "server name this one: `host` in server.yaml, then hortus rotate tls SERVER_DIR.",
        )
    return Reached(
        f"{address} shows a certificate of another authority than the one pinned in tls/ca.crt",
        "Another server listens there, something in between opens TLS (an inspecting proxy), or the server has a "
        "new authority: hortus roster add SITE_DIR server.card.yaml pins its present card.",
    )


def _dial(host: str, port: int, seconds: float) -> socket.socket:
    if (found := resolve(host)).problem:
        raise _StoppedError(found.problem, found.remedy)
    try:
        return socket.create_connection((host, port), timeout=seconds)
    except TimeoutError:
        raise _StoppedError(
            f"nothing answers at {host}, port {port}",
            "Is a firewall in between? Sites dial out: it must let this port pass.",
        ) from None
    except ConnectionRefusedError:
        raise _StoppedError(
            f"nothing listens at {host}, port {port}",
            "Has the server been started (hortus server PLAN)? Is the port the one on its card?",
        ) from None
    except OSError as error:
        raise _StoppedError(
            f"{host}, port {port}, cannot be reached: {error.strerror or error}",
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
    """Turns what a handshake raises into words."""
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
            f"what listens at {address} does not speak TLS as the server does: {_spelled(error)}",
            "Is it the right port? Another program may listen there.",
        ) from None
    except TimeoutError:
        raise _StoppedError(
            f"{address} takes connections, but does not answer",
            "Is it the right port? The server may be stuck, or another program listens there.",
        ) from None
    except OSError as error:
        raise _StoppedError(
            f"{address} hung up: {error.strerror or error}",
            "Is it the right port? Another program, or a firewall, may have answered.",
        ) from None


def _not_taken(address: str, why: str) -> Reached:
    return Reached(
        f"{address} does not take this site's certificate: {why}",
        "hortus status SITE_DIR says until when it is valid; the server's card brings a new one: "
        "hortus roster add SITE_DIR server.card.yaml.",
    )


def _spelled(error: ssl.SSLError) -> str:
    return (error.reason or "unknown").replace("_", " ").lower()


def _date(secured: ssl.SSLSocket, host: str) -> datetime | None:
    """Asks an HTTP server for its time."""
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
