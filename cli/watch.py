"""`hortus dashboard`."""

from pathlib import Path
from typing import Annotated

import typer

from hortus.cli.display import terminal
from hortus.protocol.errors import UsageError


def dashboard(
    run: Annotated[Path, typer.Argument(help="The folder of a run, deployed or simulated.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but loopback asks readers for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8300,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of a certificate, for HTTPS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
) -> None:
    """Show a run in the browser, while it goes on and afterwards. Ctrl-C stops it.

    Nothing can be changed through it.
    """
    from hortus.server.dashboard import serve_dashboard

    if (certificate is None) != (key is None):
        raise UsageError("--certificate and --key belong together")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise UsageError("there is no such file", where=str(file))
    console = terminal()
    try:
        serve_dashboard(
            run,
            host,
            port,
            lambda url: console.print(f"{run} at {url}", soft_wrap=True),
            certificate,
            key,
        )
    except KeyboardInterrupt:
        console.print("stopped")
