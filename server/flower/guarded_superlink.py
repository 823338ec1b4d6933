"""Flower's SuperLink, of which only the Fleet API answers strangers.

In Flower 1.41 one port serves the Fleet API, whose nodes are authenticated, and the Control and
Runtime APIs, whose callers are not: whoever reached them could submit an app to the server and to
every site. Here they answer the programs that `hortus server` started, which show a secret of this run.
"""

import hmac
import ipaddress
import os

from flwr.superlink import extensions
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hortus.server.flower.guarded_flower import HEADER, SECRET

_FLEET = "/v1/fleet/"


class FleetOnly:
    """ASGI middleware that forbids everything but the Fleet API to whoever does not show a secret.

    Args:
        app: What it guards.
        secret: The secret. It counts on this machine alone, where nobody can have overheard it.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        if not secret:
            raise ValueError("a secret cannot be empty")
        self._app = app
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403, or passes the request on."""
        if scope["type"] != "lifespan" and not self._may_pass(scope):
            answer = PlainTextResponse("only the Fleet API answers you", 403)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["path"].startswith(_FLEET):
            return True
        client = scope.get("client")
        if client is None or not ipaddress.ip_address(client[0]).is_loopback:
            return False
        shown = Headers(scope=scope).get(HEADER, "").encode("latin-1", "replace")
        return hmac.compare_digest(shown, self._secret)


def main() -> None:
    """Runs `flower-superlink` behind the guard."""
    guard = Middleware(FleetOnly, secret=os.environ[SECRET])
    extensions.get_middleware = lambda: (guard,)
    # Imported here, since the module takes the middleware when it is loaded.
    from flwr.superlink.cli.flower_superlink import flower_superlink  # noqa: PLC0415

    flower_superlink()


if __name__ == "__main__":
    main()
