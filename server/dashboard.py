"""`hortus dashboard`: a run in the browser, while it goes on and afterwards.

Everything is read from the run's folder and nothing can be written: there are GET routes alone. The
page loads nothing from elsewhere, and its content policy forbids it. On loopback everybody on this
machine may look, under this machine's own names, so that no foreign page can have the browser fetch
it (DNS rebinding); elsewhere a token is asked for.
"""

import asyncio
import hmac
import ipaddress
import secrets
import shlex
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from jinja2 import Environment
from markupsafe import Markup
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hortus.pages.plots import Plot, describe, svg
from hortus.pages.templates import percent, templates
from hortus.protocol.errors import HortusError
from hortus.server.attendance import at
from hortus.server.run_view import (
    RunView,
    State,
    accuracy_plot,
    epsilon_plot,
    read_view,
    signature,
)

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
    """A view as the page shows it.

    Attributes:
        view: The run.
        title: The document's.
        said: The last news in one sentence, for who listens.
        parts: HTML by the id of the element that holds it.
    """

    view: RunView
    title: str
    said: str
    parts: dict[str, str]


class Watcher:
    """What all readers of one run share: it is read again only when it has changed.

    Args:
        directory: The run's folder.

    Raises:
        UsageError: There is no run in it.
        HortusError: It cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._templates = templates("hortus.server")
        self._lock = threading.Lock()
        self._signature = signature(directory)
        self._shown = _render(self._templates, read_view(directory))

    def shown(self) -> Shown:
        """Returns the run as it is now; the same object as before if nothing has changed."""
        with self._lock:
            found = signature(self._directory)
            if found != self._signature:
                try:
                    self._shown = _render(self._templates, read_view(self._directory))
                    self._signature = found
                except HortusError:
                    # A file that is just being made: the next look will find it whole.
                    pass
            return self._shown

    def page(self) -> str:
        """Returns the whole page."""
        shown = self.shown()
        return self._templates.get_template("dashboard.html").render(
            view=shown.view,
            title=shown.title,
            parts=shown.parts,
            digest=shown.view.contract.digest(),
            audit=f"hortus audit {shlex.quote(str(self._directory))}",
        )


def make_app(
    watcher: Watcher,
    token: str | None,
    names: frozenset[str] = _OWN_NAMES,
    ending: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Makes the application.

    Args:
        watcher: The run.
        token: What a reader must show; None if everybody on this machine may look.
        names: Without a token, the names that the page may be asked for under.
        ending: Whether readers are to be let go.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    style = (files("hortus.pages") / "style.css").read_text(encoding="utf-8")
    script = (files("hortus.server") / "dashboard.js").read_text(encoding="utf-8")
    icon = (files("hortus.server") / "icon.svg").read_text(encoding="utf-8")

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(watcher.page())

    @app.get("/style.css")
    def style_sheet() -> Response:
        return Response(style, media_type="text/css")

    @app.get("/dashboard.js")
    def dashboard_script() -> Response:
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


def serve_dashboard(
    directory: Path,
    host: str,
    port: int,
    tell: Callable[[str], None],
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serves the page until SIGINT or SIGTERM.

    Args:
        directory: The run's folder.
        host: Address to listen on. If others than this machine can reach it, a fresh token is
            asked for.
        port: Port; 0 takes a free one.
        tell: Told the page's address once it answers, with the token if there is one.
        certificate: PEM file, for HTTPS.
        key: Its key, PEM.

    Raises:
        UsageError: There is no run in the folder.
        HortusError: The address cannot be listened on.
    """
    watcher = Watcher(directory)
    token = None if _is_loopback(host) else secrets.token_urlsafe(32)
    names = _OWN_NAMES | {f"[{host}]" if ":" in host else host}
    config = uvicorn.Config(
        make_app(watcher, token, names, ending=lambda: server.should_exit),
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
    """Tells that it answers; before that a signal may still be lost between Python and asyncio."""

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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Guard:
    """ASGI middleware: lets in who may look, and sets the headers of every answer."""

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
            return PlainTextResponse("this page answers to names of this machine alone", 403)
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


def _render(environment: Environment, view: RunView) -> Shown:
    run: Any = environment.get_template("run.html").module
    planned = view.contract.training.rounds
    accuracy, epsilon = (_drawn(plot(view, planned)) for plot in (accuracy_plot, epsilon_plot))
    parts = {
        "plots": run.plots(view, accuracy, epsilon),
        "changed": at(view.changed),
        "site-rows": run.site_rows(view),
        "away-rows": run.away_rows(view),
        "round-rows": run.round_rows(view, newest_first=True),
    }
    parts |= {
        name: getattr(run, name)(view) for name in ("state", "lead", "now", "failure", "tiles")
    }
    title = f"{len(view.rounds)}/{planned} {view.contract.name}, Hortus"
    return Shown(
        view, title, _news(view), {name: str(part).strip() for name, part in parts.items()}
    )


def _drawn(plot: Plot) -> tuple[Markup, str]:
    return svg(plot), describe(plot)


def _news(view: RunView) -> str:
    if view.state is State.STOPPED:
        return f"The run has stopped. {view.failure}"
    if view.state is State.SILENT:
        return "No server is at work on the run."
    if view.last is None:
        return "The run waits for its sites."
    done = f"{view.last.round + 1} of {view.contract.training.rounds} rounds are done."
    reached = view.last.metrics.get("accuracy")
    if reached is not None:
        done += f" Accuracy {percent(reached)}."
    return f"The run is finished: {done}" if view.state is State.FINISHED else done
