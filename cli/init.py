"""`hortus init`: a party's folder and keys, or a whole consortium's for a trial."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from hortus.cli.display import terminal
from hortus.parties.fingerprint import key_words
from hortus.parties.folders import (
    Consortium,
    ServerConfig,
    ServerFiles,
    SiteConfig,
    SiteFiles,
)
from hortus.parties.founding import create_consortium, create_server, create_site, require_new
from hortus.protocol.policy import Budget, Policy
from hortus.protocol.privacy import RECORD
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


Model = TypeVar("Model", bound=Schema)

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
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=OWN",
            help="The file's own column for one that plans call NAME, such as text=query. Can be repeated.",
        ),
    ] = None,
    mask_identifiers: Annotated[
        bool,
        typer.Option(
            "--mask-identifiers",
            help="Mask e-mail addresses, telephone and identity numbers before anything learns from them.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The new folder. Default: NAME.")] = None,
) -> None:
    """Create a site: keys that never leave this machine, a policy, and a public card."""
    check_site_name(name)
    files = SiteFiles(out or Path(name))
    policy = Policy(budget=_option(Budget, epsilon=epsilon, delta=delta, unit=unit))
    config = _option(
        SiteConfig,
        site=name,
        data=_existing(data, "--data"),
        columns=_parse_columns(column or ()),
        mask_identifiers=mask_identifiers,
    )
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


_Sites = Annotated[
    list[str] | None,
    typer.Option(help="NAME=DATA for each site. Default: three sites with made-up data."),
]
_Text = Annotated[
    str | None,
    typer.Option(help="Column of the text. Needed only if the files do not make it clear."),
]
_Label = Annotated[
    str | None,
    typer.Option(help="Column of the label. Needed only if the files do not make it clear."),
]
_Test = Annotated[
    Path | None, typer.Option(help="Public records that the server tests the model on.")
]
_Model = Annotated[
    str | None,
    typer.Option(help="Folder of the base model. Default: the demo's model, a small encoder."),
]
_Aggregation = Annotated[str, typer.Option(help="Host and port of the aggregation service.")]
_SuperLink = Annotated[str, typer.Option(help="Host and port of Flower's SuperLink.")]


@init.command()
def trial(
    directory: Annotated[Path, typer.Argument(help="A new folder.")],
    site: _Sites = None,
    epsilon: Epsilon = 8.0,
    delta: Delta = 1e-5,
    unit: Unit = RECORD,
    text: _Text = None,
    label: _Label = None,
    test: _Test = None,
    model: _Model = None,
    aggregation: _Aggregation = "127.0.0.1:9443",
    superlink: _SuperLink = "127.0.0.1:9092",
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


def _parse_columns(items: Iterable[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for item in items:
        name, _, own = item.partition("=")
        if not name or not own or name in columns:
            raise UsageError(f"{item!r} is not NAME=OWN, or names one twice", where="--column")
        columns[name] = own
    return columns


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
                "this option is about the sites' own files, but no file is given",
                where=f"--{option}",
                remedy="Name a file for each site: --site NAME=DATA.",
            )


def _tell_plan(console: Console, made: "OwnPlan", unit: str) -> None:
    columns = ", ".join(map(repr, made.task.columns))
    console.print(
        f"Its plan is for {made.task.kind}, and reads the columns {columns}: the model learns to "
        f"{made.task.words(str)}."
    )
    counted = "records" if unit == RECORD else f"different {unit}"
    sizes = ", ".join(f"{site} {number}" for site, number in made.units.items())
    console.print(
        f"Labels and sizes ({counted}: {sizes}) were read from the files; only a trial on one machine may do "
        "this. A real consortium agrees on them before anybody looks at data."
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
