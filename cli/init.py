"""`hortus init`, `roster` and `rotate`: how parties join, renew their keys, and leave."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.display import terminal
from hortus.parties.authority import begin_change, finish_change
from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.fingerprint import key_words, roster_words
from hortus.parties.folders import (
    Consortium,
    ServerConfig,
    ServerFiles,
    SiteConfig,
    SiteFiles,
    open_party,
)
from hortus.parties.identity_change import rotate_server_identity
from hortus.parties.joining import (
    admit,
    create_consortium,
    create_server,
    create_site,
    pin,
    remove,
    renew_server_certificate,
    require_new,
    rotate_flower,
    rotate_tls,
    write_server_card,
    write_site_card,
)
from hortus.protocol.identity import Roster
from hortus.protocol.plan import RECORD
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic
from hortus.runtime.names import SERVER, check_site_name
from hortus.runtime.schema import Schema

if TYPE_CHECKING:
    from hortus.simulation.own_data import OwnPlan

init = typer.Typer(
    name="init",
    no_args_is_help=True,
    help="Create a party's folder and keys, each on its own machine, or all on one machine for a trial.",
)
roster = typer.Typer(
    name="roster",
    no_args_is_help=True,
    help="Pin other parties' keys in a site's or the server's folder, and compare fingerprints.",
)

rotate = typer.Typer(
    name="rotate",
    no_args_is_help=True,
    help="Renew a party's keys and certificates.",
)

Model = TypeVar("Model", bound=Schema)

Folder = Annotated[Path, typer.Argument(help="A site's folder, or the server's.")]
SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]
Epsilon = Annotated[float, typer.Option(help="The budget ε of a dataset, over all plans.")]
Delta = Annotated[float, typer.Option(help="The δ at which ε is stated.")]
Unit = Annotated[
    str, typer.Option(help="Whom the budget protects: record, or a column such as patient_id.")
]


@init.command()
def site(
    name: Annotated[str, typer.Argument(help="The site's name: lower-case letters, digits and -.")],
    data: Annotated[Path, typer.Option(help="The site's records: a file, or a `datasets` folder.")],
    epsilon: Epsilon = 8.0,
    delta: Delta = 1e-5,
    unit: Unit = RECORD,
    out: Annotated[Path | None, typer.Option(help="The new folder. Default: NAME.")] = None,
) -> None:
    """Create a site: keys that never leave this machine, a policy, and a public card."""
    check_site_name(name)
    files = SiteFiles(out or Path(name))
    policy = Policy(budget=_option(Budget, epsilon=epsilon, delta=delta, unit=unit))
    config = SiteConfig(site=name, data=_existing(data, "--data"))
    card = create_site(files, config, policy, datetime.now(UTC))
    console = terminal()
    console.print(f"{files.directory} is the site {name}. Its fingerprint:")
    console.print(f"  {key_words(name, card.key)}", soft_wrap=True)
    console.print(f"Give {files.card(name)} to the server and to every other site.")


@init.command(name="server")
def server_(
    host: Annotated[str, typer.Argument(help="Name or IP address at which sites dial the server.")],
    aggregation_port: Annotated[int, typer.Option(help="Port of the aggregation service.")] = 9443,
    superlink_port: Annotated[int, typer.Option(help="Port of Flower's SuperLink.")] = 9092,
    listen: Annotated[str, typer.Option(help="Address of this machine to listen on.")] = "0.0.0.0",  # noqa: S104 - a server
    out: Annotated[Path, typer.Option(help="The new folder.")] = Path("server"),
) -> None:
    """Create the server: its keys, an authority for TLS certificates, and a public card."""
    files = ServerFiles(out)
    within = f"[{listen}]" if ":" in listen else listen
    config = _option(
        ServerConfig,
        aggregation=f"{within}:{aggregation_port}",
        superlink=f"{within}:{superlink_port}",
        host=host,
    )
    card = create_server(files, config, datetime.now(UTC))
    console = terminal()
    console.print(f"{files.directory} is the server. Its fingerprint:")
    console.print(f"  {key_words(SERVER, card.key)}", soft_wrap=True)
    console.print(f"Next, with the sites' cards: hortus roster add {files.directory} CARD…")


@init.command()
def trial(
    directory: Annotated[Path, typer.Argument(help="A new folder.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DATA for each site. Default: three sites with made-up data."),
    ] = None,
    epsilon: Epsilon = 8.0,
    delta: Delta = 1e-5,
    unit: Unit = RECORD,
    text: Annotated[
        str | None, typer.Option(help="Column of the text, if the files leave it open.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the label, if the files leave it open.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Public records that the server tests the model on.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder of the base model. Default: the demo's model, a small encoder."),
    ] = None,
    aggregation: Annotated[
        str, typer.Option(help="Host and port of the aggregation service.")
    ] = "127.0.0.1:9443",
    superlink: Annotated[
        str, typer.Option(help="Host and port of Flower's SuperLink.")
    ] = "127.0.0.1:9092",
) -> None:
    """Create a whole consortium on one machine, with a plan, for a trial.

    The plan fits the sites' own files: columns, labels and sizes are read from them, which only a trial
    may do. Whoever creates it has every site's private keys; a real site creates its own (`hortus init site`).
    """
    data = _parse_sites(site or ())
    policy = Policy(budget=_option(Budget, epsilon=epsilon, delta=delta, unit=unit))
    addresses = _option(ServerConfig, aggregation=aggregation, superlink=superlink)
    require_new(directory)  # before reading files, which may take a while
    console = terminal()
    if data:
        from hortus.simulation.own_data import PACKAGED_MODEL, Asked, plan_for

        named = PACKAGED_MODEL if model is None else str(_existing(Path(model), "--model"))
        tested = None if test is None else _existing(test, "--test")
        made = plan_for(data, Asked(policy, text, label, tested, named))
        plan = made.text
    else:
        from hortus.simulation.demo import example, write_example

        _need_files(text=text, label=label, test=test, model=model)
        _need_files(unit=None if unit == RECORD else unit)
        made = None
        data, plan = example(directory, policy.budget)
    consortium = create_consortium(
        directory, data, dict.fromkeys(data, policy), addresses, datetime.now(UTC)
    )
    if made is None:
        write_example(directory)
    write_atomic(directory / "plan.yaml", plan.encode())
    console.print(f"{directory} holds a consortium of {', '.join(consortium.sites)}.")
    if made is not None:
        _tell_plan(console, made, unit)
    _tell_next(console, consortium)


@roster.command()
def add(
    directory: Folder,
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
    directory: Folder,
    name: Annotated[str, typer.Argument(help="The site to remove.")],
) -> None:
    """Remove a site: its key is refused here from the next session on."""
    files, console = open_party(directory), terminal()
    remove(files, name)
    if isinstance(files, ServerFiles):
        write_server_card(files, datetime.now(UTC))
    _show_roster(console, files)


@roster.command()
def show(directory: Folder) -> None:
    """Show the fingerprints of all pinned parties and of the whole roster, to compare by telephone."""
    _show_roster(terminal(), open_party(directory))


@roster.command()
def card(directory: Folder) -> None:
    """Write this party's card again, after it has expired or was lost."""
    files, now = open_party(directory), datetime.now(UTC)
    if isinstance(files, ServerFiles):
        write_server_card(files, now)
        path = files.card
    else:
        path = files.card(write_site_card(files, now).site)
    terminal().print(f"{path} is valid for 90 days.")


@rotate.command()
def tls(directory: Folder) -> None:
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
def identity(directory: Folder) -> None:
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
    directory: Folder,
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


def _show_roster(console: Console, files: SiteFiles | ServerFiles) -> None:
    pinned = Roster.load(files.roster)
    table = Table("party", "fingerprint", box=None, pad_edge=False)
    for name, key in {SERVER: pinned.server, **pinned.sites}.items():
        table.add_row(name, key_words(name, key))
    console.print(table)
    console.print("whole roster, the same at every party that has pinned the same keys:")
    console.print(f"  {roster_words(pinned)}", style="bold", soft_wrap=True)


def _option(model: type[Model], **fields: object) -> Model:
    """Builds a model from the options that are its fields.

    Raises:
        UsageError: It names the field that is wrong.
    """
    return model.parse(fields, "options")


def _existing(path: Path, option: str) -> Path:
    if not path.exists():
        raise UsageError("there is no such file or folder", where=f"{option} {path}")
    return path.resolve()


def _parse_sites(items: Iterable[str]) -> dict[str, Path]:
    sites: dict[str, Path] = {}
    for item in items:
        name, found, path = item.partition("=")
        if not found or not Path(path).exists():
            raise UsageError(
                f"{item!r} is not NAME=DATA with an existing file or folder", where="--site"
            )
        check_site_name(name)
        if name in sites:
            raise UsageError(f"two sites are called {name!r}", where="--site")
        sites[name] = Path(path).resolve()
    return sites


def _need_files(**options: object) -> None:
    """Refuses options about the sites' own files if no such files are given."""
    for option, given in options.items():
        if given is not None:
            raise UsageError(
                "it is about the sites' own files, but no file is given",
                where=f"--{option}",
                remedy="Name a file for each site: --site NAME=DATA.",
            )


def _tell_plan(console: Console, made: "OwnPlan", unit: str) -> None:
    columns = made.columns
    console.print(
        f"Its plan reads the text from column {columns.text!r} and {made.labels} labels from column "
        f"{columns.label!r}."
    )
    counted = "records" if unit == RECORD else f"different {unit}"
    sizes = ", ".join(f"{site} {number}" for site, number in made.units.items())
    console.print(
        f"Labels and sizes ({counted}: {sizes}) were read from the files, which only a trial on one machine "
        "may do. A real consortium agrees on them before anybody looks at data."
    )


def _tell_next(console: Console, consortium: Consortium) -> None:
    plan = quote(str(consortium.directory / "plan.yaml"))
    folders = [quote(str(consortium.site(name).directory)) for name in consortium.sites]
    _tell_commands(
        console,
        "Read what the plan costs, and rehearse it:",
        f"hortus plan {plan}",
        f"hortus simulate {plan} --out {quote(str(consortium.directory / 'rehearsal'))}",
    )
    approvals = [f"hortus approve {folder} {plan}" for folder in folders]
    _tell_commands(console, "Each site approves the plan:", *approvals)
    agents = [f"hortus client {folder}" for folder in folders]
    _tell_commands(
        console, "Then run each of these in its own terminal:", f"hortus server {plan}", *agents
    )


def _tell_commands(console: Console, said: str, *commands: str) -> None:
    """Prints commands as the reader types them, without breaking lines."""
    console.print(said)
    for command in commands:
        console.print(f"  {command}", soft_wrap=True)
