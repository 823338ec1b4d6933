"""Flower's SuperLink, of which only the Fleet API answers other hosts.

In Flower 1.41 one port serves the Fleet API, whose nodes are authenticated, and the Control and
Runtime APIs, whose callers are not: whoever reached them could submit an app to the server and to
every site. They answer this machine alone here.
"""

import ipaddress

from flwr.superlink import extensions
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_FLEET = "/v1/fleet/"


class FleetOnly:
    """ASGI middleware that forbids everything but the Fleet API to other hosts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403, or passes the request on."""
        if scope["type"] != "lifespan" and not self._may_pass(scope):
            await PlainTextResponse("only the Fleet API answers other hosts", 403)(
                scope, receive, send
            )
            return
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["path"].startswith(_FLEET):
            return True
        client = scope.get("client")
        return client is not None and ipaddress.ip_address(client[0]).is_loopback


def main() -> None:
    """Runs `flower-superlink` behind the guard."""
    extensions.get_middleware = lambda: (Middleware(FleetOnly),)
    # Imported here, since the module takes the middleware when it is loaded.
    from flwr.superlink.cli.flower_superlink import flower_superlink  # noqa: PLC0415

    flower_superlink()


if __name__ == "__main__":
    main()
