"""`hortus dashboard`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hortus.cli.display import terminal
from hortus.parties.folders import SiteFiles
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from hortus.pages.live import Source


def dashboard(
    directory: Annotated[
        Path, typer.Argument(help="The folder of a run (deployed or simulated) or of a site.")
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Other than on loopback, readers of a run need a token; this is "
            "refused for a site."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")
    ] = 8300,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of a certificate for HTTPS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
) -> None:
    """Show a run, or a site to its own operator, in the browser. Stop with Ctrl-C.

    The page can change nothing.
    """
    from hortus.pages.live import serve_page
    from hortus.runtime.proxies import is_this_machine

    _check_tls(certificate, key)
    is_site = SiteFiles(directory).config.exists()
    if is_site and not is_this_machine(host):
        raise UsageError(
            "a site's page is for its own operators: it is served on loopback alone",
            where=f"--host {host}",
            remedy="From another machine: ssh -L 8300:127.0.0.1:8300 SITE_MACHINE",
        )
    console = terminal()
    try:
        serve_page(
            _source(directory, is_site=is_site),
            host,
            port,
            lambda url: console.print(f"{directory} at {url}", soft_wrap=True),
            certificate,
            key,
            is_private=is_site,
        )
    except KeyboardInterrupt:
        console.print("stopped")


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    if (certificate is None) != (key is None):
        raise UsageError("--certificate and --key belong together")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise UsageError("there is no such file", where=str(file))


def _source(directory: Path, *, is_site: bool) -> "Source":
    if is_site:
        from hortus.client.operator.page import SiteSource

        return SiteSource(directory, time.time)
    from hortus.server.web.dashboard import RunSource

    return RunSource(directory)
