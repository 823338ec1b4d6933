"""A page that follows what it shows: served to a browser, and read again when its files change.

Nothing can be written: there are GET routes alone. The page loads nothing from elsewhere, and its
content policy forbids it. On loopback everybody on this machine may look, under this machine's own
names, so that no foreign page can have the browser fetch it (DNS rebinding); elsewhere a token is
asked for.
"""

import asyncio
import hmac
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from markupsafe import Markup, escape
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hortus.runtime.errors import HortusError, printable
from hortus.runtime.proxies import is_this_machine

PROBLEM = "problem"  # the part that says what cannot be read
_POLL_SECONDS = 1.0
_RECONNECT_MILLISECONDS = 2000
_CONNECTIONS = 100
_FAREWELL_SECONDS = 5
_COOKIE = "hortus-dashboard"
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows at one moment.

    Attributes:
        title: The document's.
        said: The latest news in one sentence, for screen readers.
        parts: HTML by the id of the element that holds it.
    """

    title: str
    said: str
    parts: Mapping[str, str]


class Source(Protocol):
    """What a page is read from."""

    def signature(self) -> Hashable:
        """Returns what changes whenever something that is shown has changed."""

    def show(self) -> Shown:
        """Reads it.

        Raises:
            HortusError: It cannot be read.
        """

    def page(self, shown: Shown) -> str:
        """Returns the whole page with these parts in their places, HTML."""


class Watcher:
    """What all readers of one page share: it is read again only when something has changed.

    Args:
        source: What it is read from.

    Raises:
        HortusError: It cannot be read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._signature: Hashable = source.signature()
        self._shown = source.show()
        self._problem: str | None = None

    def shown(self) -> Shown:
        """Returns what there is to show now; the same object as before if nothing has changed.

        What cannot be read leaves the last view in place, with the reason above it.
        """
        with self._lock:
            signature = self._source.signature()
            if signature != self._signature or self._problem:
                try:
                    self._shown, self._problem = self._source.show(), None
                    self._signature = signature
                except HortusError as error:
                    self._say(str(error))
            return self._shown

    def page(self) -> str:
        """Returns the whole page."""
        return self._source.page(self.shown())

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            parts = {**self._shown.parts, PROBLEM: _problem_part(problem)}
            said = f"It can no longer be read: {problem}"
            self._shown = replace(self._shown, said=said, parts=parts)


def _problem_part(problem: str) -> str:
    return Markup(
        '<p class="warn"><b>It can no longer be read:</b> {} The page below shows the last state. '
        "The dashboard tries again every second.</p>"
    ).format(escape(printable(problem)))


def page_app(
    watcher: Watcher,
    token: str | None,
    names: frozenset[str] = _OWN_NAMES,
    ending: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Makes the application.

    Args:
        watcher: What is shown.
        token: What a reader must show; None if everybody on this machine may look.
        names: Without a token, the names that the page may be asked for under.
        ending: Whether readers are to be let go.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    style, script, icon = (
        (files("hortus.pages") / name).read_text(encoding="utf-8")
        for name in ("style.css", "live.js", "icon.svg")
    )

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(watcher.page())

    @app.get("/style.css")
    def style_sheet() -> Response:
        return Response(style, media_type="text/css")

    @app.get("/live.js")
    def live_script() -> Response:
        return Response(script, media_type="text/javascript")

    @app.get("/icon.svg")
    def leaf() -> Response:
        return Response(icon, media_type="image/svg+xml")

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[ServerSentEvent]:
        last: Shown | None = None
        while not ending():
            shown = await asyncio.to_thread(watcher.shown)
            if shown is not last:
                data = {"title": shown.title, "said": shown.said, "parts": shown.parts}
                yield ServerSentEvent(event="view", data=data, retry=_RECONNECT_MILLISECONDS)
                last = shown
            await asyncio.sleep(_POLL_SECONDS)

    app.add_middleware(_Guard, token=token, names=names)
    return app


def serve_page(
    source: Source,
    host: str,
    port: int,
    tell: Callable[[str], None],
    certificate: Path | None = None,
    key: Path | None = None,
    *,
    is_private: bool = False,
) -> None:
    """Serves a page until SIGINT or SIGTERM.

    Args:
        source: What it is read from.
        host: Address to listen on. If others than this machine can reach it, a fresh token is
            asked for.
        port: Port; 0 takes a free one.
        tell: Called with the page's address once it answers, with its token if it has one.
        certificate: PEM file, for HTTPS.
        key: Its key, PEM.
        is_private: Whether a token is asked for on loopback too: other users of this machine may not
            look.

    Raises:
        HortusError: The source cannot be read, or the address cannot be listened on.
    """
    watcher = Watcher(source)
    is_open = is_this_machine(host) and not is_private
    token = None if is_open else secrets.token_urlsafe(32)
    names = _OWN_NAMES | {f"[{host}]" if ":" in host else host}
    config = uvicorn.Config(
        page_app(watcher, token, names, ending=lambda: server.should_exit),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,  # it would hold the token
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_FAREWELL_SECONDS,
    )
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if certificate else "http"
        query = f"?token={token}" if token else ""
        url = f"{scheme}://{shown}:{listener.getsockname()[1]}/{query}"
        server = _Server(config, lambda: tell(url))
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Reports when it answers; before that, a signal may be lost between Python and asyncio."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._tell()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise HortusError(
            f"the dashboard cannot listen on port {port}: {error.strerror}",
            where=host,
            remedy="Choose another with --port, or 0 for a free one.",
        ) from error


class _Guard:
    """ASGI middleware: lets authorised readers in, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, token: str | None, names: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._check(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> Response | None:
        """Returns what to answer instead of the page; None to let the request pass."""
        if self._token is None:
            host = Headers(scope=scope).get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name.lower() in self._names:
                return None
            return PlainTextResponse("this page answers only to names of this machine", 403)
        shown = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if shown and _same(shown, self._token):
            # The address bar, the history and what it links to need not know the token.
            answer = RedirectResponse(scope["path"], 303)
            answer.set_cookie(
                _COOKIE,
                self._token,
                httponly=True,
                samesite="lax",
                secure=scope["scheme"] == "https",
            )
            return answer
        if _same(Request(scope).cookies.get(_COOKIE, ""), self._token):
            return None
        return PlainTextResponse(
            "open the address that `hortus dashboard` printed, token and all", 401
        )


def _same(shown: str, expected: str) -> bool:
    return hmac.compare_digest(shown.encode(), expected.encode())
