"""A small CONNECT proxy on loopback that knows one name: its own network's, which leads to this machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

NAME = "hub.example"  # a name that nobody else resolves


@dataclass
class ConnectProxy:
    """What it does and what it was asked.

    Attributes:
        answer: What it says instead of connecting; None: it connects.
        port: Where it listens.
        requests: The headers that it got, one for each connection.
    """

    answer: bytes | None
    port: int
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def connect_proxy(answer: bytes | None = None) -> Iterator[ConnectProxy]:
    """Runs one; with an answer it connects nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = ConnectProxy(answer, listener.getsockname()[1])
        threading.Thread(target=_accept, args=(listener, proxy), daemon=True).start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, proxy: ConnectProxy) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, proxy), daemon=True).start()


def _serve(connection: socket.socket, proxy: ConnectProxy) -> None:
    with connection, suppress(OSError):
        header = b""
        while b"\r\n\r\n" not in header:
            if not (part := connection.recv(4096)):
                return
            header += part
        proxy.requests.append(header.decode())
        if proxy.answer is not None:
            connection.sendall(proxy.answer)
            return
        method, target, _ = header.decode().split(" ", 2)
        host, _, port = target.partition(":")
        assert (method, host) == ("CONNECT", NAME)
        try:
            server = socket.create_connection(("127.0.0.1", int(port)))
        except OSError:
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        with server:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            back = threading.Thread(target=_copy, args=(server, connection), daemon=True)
            back.start()
            _copy(connection, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(2**16):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
