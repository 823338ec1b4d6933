"""`hortus rotate`: how a party renews its keys and certificates."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli.display import terminal
from hortus.cli.options import PartyFolder, SiteFolder
from hortus.parties.authority import begin_change, finish_change
from hortus.parties.fingerprint import key_words
from hortus.parties.folders import ServerFiles, SiteFiles, open_party
from hortus.parties.identity_change import rotate_server_identity
from hortus.parties.renewal import renew_server_certificate, rotate_flower, rotate_tls
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER

rotate = typer.Typer(
    name="rotate",
    no_args_is_help=True,
    help="Renew a party's keys and certificates.",
)


@rotate.command()
def tls(directory: PartyFolder) -> None:
    """Create a new TLS key: the server certifies its own, a site asks the server for a certificate.

    A site uses its present certificate until it has pinned the server's card with the new one.
    """
    files, now = open_party(directory), datetime.now(UTC)
    if isinstance(files, ServerFiles):
        renew_server_certificate(files, now)
        terminal().print(f"The server uses {files.tls.certificate} after its next start.")
    else:
        _tell_renewal(files, rotate_tls(files, now).site)


@rotate.command()
def flower(directory: SiteFolder) -> None:
    """Create a new key for the site's SuperNode.

    The site uses the present one until it has pinned a server's card that has the new one.
    """
    files = _site_files(directory)
    _tell_renewal(files, rotate_flower(files, datetime.now(UTC)).site)


@rotate.command()
def identity(directory: PartyFolder) -> None:
    """Create a new identity key. The old one signs the new one, and the ledger continues.

    First stop the site's agent, or the server. Every other party then adds the new card.
    """
    files, now, console = open_party(directory), datetime.now(UTC), terminal()
    if isinstance(files, ServerFiles):
        name, key = SERVER, rotate_server_identity(files, now).key
        then = f"Give {files.card} to every site, which refuses the server until it has added it."
    else:
        from hortus.client.operator.rotation import rotate_identity

        card = rotate_identity(files, time.time)
        name, key = card.site, card.key
        then = f"Give {files.card(name)} to the server and to every other site."
    console.print("The new fingerprint:")
    console.print(f"  {key_words(name, key)}", soft_wrap=True)
    console.print(then)


@rotate.command()
def authority(
    directory: PartyFolder,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish", help="Trust only the new authority: all sites have added the card."
        ),
    ] = False,
) -> None:
    """Create a new TLS authority at the server and new certificates for sites, locking no site out.

    Both authorities are trusted until you run it with --finish.
    """
    files, now, console = open_party(directory), datetime.now(UTC), terminal()
    if not isinstance(files, ServerFiles):
        raise UsageError("this is a site's folder, not the server's", where=str(directory))
    if finish:
        finish_change(files, now)
        console.print("The former authority is removed. If the server runs, restart it.")
        console.print(f"Then give {files.card} to every site.")
    else:
        begin_change(files, now)
        console.print(
            "If the server runs, restart it: it then accepts certificates of either authority."
        )
        console.print(f"Then give {files.card} to every site. When all have added it, run:")
        console.print(f"  hortus rotate authority {directory} --finish")


def _site_files(directory: Path) -> SiteFiles:
    files = open_party(directory)
    if isinstance(files, ServerFiles):
        raise UsageError("this is the server's folder, not a site's", where=str(directory))
    return files


def _tell_renewal(files: SiteFiles, name: str) -> None:
    console = terminal()
    console.print(f"Give {files.card(name)} to the server, which adds it and gives you its card:")
    console.print(f"  at the server   hortus roster add SERVER_DIR {name}.card.yaml")
    console.print(f"  then here       hortus roster add {files.directory} {SERVER}.card.yaml")
