"""`hortus roster`: whose keys a party trusts."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.display import terminal
from hortus.cli.options import PartyFolder
from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.fingerprint import key_words, roster_words
from hortus.parties.folders import ServerFiles, SiteConfig, SiteFiles, open_party
from hortus.parties.joining import admit, pin, remove
from hortus.parties.renewal import write_server_card, write_site_card
from hortus.protocol.identity import Roster
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER

roster = typer.Typer(
    name="roster",
    no_args_is_help=True,
    help="Pin other parties' keys in a site's or the server's folder, and compare fingerprints.",
)


@roster.command()
def add(
    directory: PartyFolder,
    cards: Annotated[list[Path], typer.Argument(help="Cards of other parties.")],
) -> None:
    """Pin the keys on some cards; at the server, also admit the sites and issue their certificates.

    Compare the fingerprints with their owners, by telephone or in person: the cards do not prove
    who made them.
    """
    files, console, now = open_party(directory), terminal(), datetime.now(UTC)
    loaded = [load_card(path) for path in cards]
    sites = [card for card in loaded if isinstance(card, SiteCard)]
    servers = [card for card in loaded if isinstance(card, ServerCard)]
    if isinstance(files, ServerFiles):
        if servers:
            raise UsageError("the server adds sites' cards, not its own", where=SERVER)
        admit(files, sites, now)
    else:
        if len(servers) > 1:
            raise UsageError(
                "a consortium has one server, but two server cards were given", where=SERVER
            )
        pin(files, servers[0] if servers else None, sites, now)
    _show_roster(console, files)
    if isinstance(files, ServerFiles):
        console.print(f"Give the new {files.card} to every site: it contains the certificates.")
    elif not files.tls.certificate.exists():
        console.print(
            "The server has not issued this site's certificate yet. It must add "
            f"{files.card(SiteConfig.load(files.config).site)} and give you its card again."
        )


@roster.command(name="remove")
def remove_(
    directory: PartyFolder,
    name: Annotated[str, typer.Argument(help="The site to remove.")],
) -> None:
    """Remove a site: its key is refused here from the next session on."""
    files, console = open_party(directory), terminal()
    remove(files, name)
    if isinstance(files, ServerFiles):
        write_server_card(files, datetime.now(UTC))
    _show_roster(console, files)


@roster.command()
def show(directory: PartyFolder) -> None:
    """Show the fingerprints of all pinned parties and of the whole roster, to compare by telephone."""
    _show_roster(terminal(), open_party(directory))


@roster.command()
def card(directory: PartyFolder) -> None:
    """Write this party's card again, after it has expired or was lost."""
    files, now = open_party(directory), datetime.now(UTC)
    if isinstance(files, ServerFiles):
        write_server_card(files, now)
        path = files.card
    else:
        path = files.card(write_site_card(files, now).site)
    terminal().print(f"{path} is valid for 90 days.")


def _show_roster(console: Console, files: SiteFiles | ServerFiles) -> None:
    pinned = Roster.load(files.roster)
    table = Table("party", "fingerprint", box=None, pad_edge=False)
    for name, key in {SERVER: pinned.server, **pinned.sites}.items():
        table.add_row(name, key_words(name, key))
    console.print(table)
    console.print("whole roster, the same at every party that has pinned the same keys:")
    console.print(f"  {roster_words(pinned)}", style="bold", soft_wrap=True)
