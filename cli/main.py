"""`hortus`: the command line."""

import os
import signal
import warnings
from typing import Annotated, Any

import click
import typer

import hortus
from hortus.cli.display import echo
from hortus.cli.errors import ReportingGroup
from hortus.cli.groups import LateCommands
from hortus.cli.streams import write_in_any_encoding
from hortus.runtime.logs import clean_early_logging
from hortus.runtime.proxies import direct_hosts
from hortus.runtime.surroundings import raise_open_files

_COMMANDS = {
    "demo": "hortus.cli.demo:demo",
    "simulate": "hortus.cli.simulate:simulate",
    "plan": "hortus.cli.plan:plan",
    "model": "hortus.cli.model:model",
    "init": "hortus.cli.init:init",
    "roster": "hortus.cli.roster:roster",
    "rotate": "hortus.cli.rotate:rotate",
    "approve": "hortus.cli.approve:approve",
    "server": "hortus.cli.server:server",
    "client": "hortus.cli.client:client",
    "status": "hortus.cli.status:status",
    "check": "hortus.cli.check:check",
    "export": "hortus.cli.export:export",
    "dashboard": "hortus.cli.dashboard:dashboard",
    "audit": "hortus.cli.audit:audit",
    "budget": "hortus.cli.budget:budget",
}


class _Hortus(ReportingGroup):
    """All commands; only the one that is named is imported, and all for help."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(**attributes)
        self.commands = LateCommands(_COMMANDS).as_commands()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own
        """Returns the commands' names, in the order of a first day."""
        return list(self.commands)


app = typer.Typer(
    cls=_Hortus,
    no_args_is_help=True,
    suggest_commands=False,  # click does
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Privacy-preserving federated fine-tuning: many sites train one language model, and "
    "no one sees another site's records, gradients or adapters.",
)


def _tell_version(asked: bool) -> None:
    if asked:
        echo(f"hortus {hortus.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks. They may quote records.")
    ] = False,
) -> None:
    """Options that precede the command."""


def main() -> None:
    """Entry point of the `hortus` script."""
    # Hortus contacts no hub and sends no telemetry, and the libraries that it uses may not either.
    os.environ.update(
        HF_HUB_OFFLINE="1", FLWR_TELEMETRY_ENABLED="0", TOKENIZERS_PARALLELISM="false"
    )
    # gRPC reads lower case alone, and takes a blank entry for every host.
    os.environ.update(no_grpc_proxy=",".join(direct_hosts(os.environ)))
    # gRPC's own notes are no part of a log: on forks, where it would rather be left alone, and on each handshake.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    raise_open_files()
    # Threads that wait leave the processor to others: a site, or a simulation, rarely has it to itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Opacus's own, and harmless: an unbounded search for the best Rényi order, hooks on inputs.
    for message in ("Full backward hook", "Optimal order"):
        warnings.filterwarnings("ignore", message=message)
    write_in_any_encoding()
    clean_early_logging()
    # A service manager stops it like Ctrl-C: child processes end, finished work is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
