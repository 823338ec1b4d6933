"""`hortus`: the command line."""

import os
import signal
import warnings
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

import hortus
from hortus.cli.display import echo
from hortus.cli.errors import ReportingGroup
from hortus.cli.groups import LateCommands
from hortus.cli.streams import write_in_any_encoding
from hortus.runtime.logs import clean_early_logging
from hortus.runtime.proxies import direct_hosts
from hortus.runtime.surroundings import raise_open_files

# Where each is, and the first sentence of its help, so that help imports none of them.
_COMMANDS = {
    "demo": (
        "hortus.cli.demo:demo",
        "Fine-tune a real transformer at six hospitals and banks, privately, and compare.",
    ),
    "simulate": (
        "hortus.cli.simulate:simulate",
        "Run a plan with virtual sites on this machine, with the deployment's own code.",
    ),
    "plan": (
        "hortus.cli.plan:plan",
        "Examine a plan before anything runs: hortus plan PLAN.yaml shows what it costs each site.",
    ),
    "model": ("hortus.cli.model:model", "Prepare the folder of a base model for plans."),
    "init": (
        "hortus.cli.init:init",
        "Create a party's folder and keys, each on its own machine, or all on one machine for a trial.",
    ),
    "roster": (
        "hortus.cli.roster:roster",
        "Pin other parties' keys in a site's or the server's folder, and compare fingerprints.",
    ),
    "rotate": ("hortus.cli.rotate:rotate", "Renew a party's keys and certificates."),
    "approve": (
        "hortus.cli.approve:approve",
        "Approve a plan at a site. A signed ledger entry records who approved it, when, and for how much.",
    ),
    "server": (
        "hortus.cli.server:server",
        "Serve a plan: wait for the sites and train until all rounds are done.",
    ),
    "client": (
        "hortus.cli.client:client",
        "Run a site, which answers the server until you stop it (Ctrl-C or SIGTERM).",
    ),
    "status": (
        "hortus.cli.status:status",
        "Show certificates, roster, budgets, approvals, the last rounds, and which sites left and why.",
    ),
    "check": (
        "hortus.cli.check:check",
        "Check what could keep a site or the server from taking part in a run, and print a remedy for each problem.",
    ),
    "data": (
        "hortus.cli.data:data",
        "Look at a site's records before anything learns from them, or hold a share of a file out.",
    ),
    "predict": (
        "hortus.cli.predict:predict",
        "Have a trained model answer a text, or every line or row of a file.",
    ),
    "chat": (
        "hortus.cli.chat:chat",
        "Talk with a trained language model, or compare it with its base model.",
    ),
    "export": (
        "hortus.cli.export:export",
        "Write a trained model with a model card: from any run, however it ended, or from an adapter.",
    ),
    "dashboard": (
        "hortus.cli.dashboard:dashboard",
        "Show a run, or a site to its own operator, in the browser. Stop with Ctrl-C.",
    ),
    "audit": (
        "hortus.cli.audit:audit",
        "Verify what was spent: hortus audit PATH verifies the ledgers in PATH.",
    ),
    "budget": (
        "hortus.cli.budget:budget",
        "Show a site's budgets, and decide what its datasets may still release.",
    ),
}


class _Hortus(ReportingGroup):
    """All commands; only the one that is named is imported, and none for help."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(**attributes)
        self._late = LateCommands({name: target for name, (target, _) in _COMMANDS.items()})
        self.commands = self._late.as_commands()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own
        """Returns the commands' names, in the order of a first day."""
        return list(self.commands)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands by their summaries."""
        self.commands = {
            name: TyperCommand(name, help=summary) for name, (_, summary) in _COMMANDS.items()
        }
        super().format_help(ctx, formatter)
        self.commands = self._late.as_commands()


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
    # Keep gRPC's own notes, about forks and about each handshake, out of the log.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    raise_open_files()
    # Threads that wait leave the processor to others: a site, or a simulation, rarely has it to itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Harmless, and of other libraries: hooks on inputs, an unbounded search for the best Rényi order, a property that
    # PEFT asks for, a GGUF file's folder without a config.json.
    for message in (
        "Full backward hook",
        "Optimal order",
        "`is_gradient_checkpointing`",
        "Could not find a config file",
    ):
        warnings.filterwarnings("ignore", message=message)
    write_in_any_encoding()
    clean_early_logging()
    # A service manager stops it like Ctrl-C: child processes end, finished work is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
