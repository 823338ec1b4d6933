"""`hortus audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.groups import FallbackGroup
from hortus.protocol.consortium import Consortium, SiteFiles
from hortus.protocol.errors import UsageError
from hortus.protocol.identity import Roster
from hortus.protocol.plan import Contract

if TYPE_CHECKING:
    from hortus.privacy.audit import Audit

audit = typer.Typer(
    name="audit",
    cls=FallbackGroup,
    no_args_is_help=True,
    help="Check what was spent: hortus audit DIRECTORY verifies the ledgers in it.",
)


@audit.command()
def ledger(
    directory: Annotated[Path, typer.Argument(help="A site's folder, or a run's.")],
) -> None:
    """Verify ledgers and recompute every ε with a second accountant.

    A deployed server's run holds no ledgers; what it claims is shown instead. Exit code 0 only if
    every entry holds.
    """
    console = Console()
    if (directory / "contract.json").exists() and not (directory / "consortium").exists():
        _show_claims(console, directory)
        return
    audits = [_audit(files) for files in _sites(directory)]
    for result in audits:
        _show(console, result)
    if any(result.first_broken for result in audits):
        raise typer.Exit(1)


def _show_claims(console: Console, directory: Path) -> None:
    from hortus.server.run_store import RunStore

    contract = Contract.model_validate_json((directory / "contract.json").read_bytes())
    table = Table("round", "sites", "attempts", "ε claimed", box=None, title=contract.name)
    for record in RunStore(directory, contract).rounds:
        claim = "∞" if record.epsilon is None else f"{record.epsilon:.3f}"
        table.add_row(str(record.round + 1), ", ".join(record.sites), str(record.attempts), claim)
    console.print(table)
    console.print(
        f"The server's claim at δ = {contract.privacy.delta:g}, for {contract.digest()}. Proof is in "
        "the sites' own ledgers: hortus audit SITE_DIR"
    )


def _sites(directory: Path) -> list[SiteFiles]:
    if SiteFiles(directory).config.exists():
        return [SiteFiles(directory)]
    consortium = Consortium(
        directory / "consortium" if (directory / "consortium").is_dir() else directory
    )
    if not (consortium.directory / "sites").is_dir():
        raise UsageError(
            "there is no site in this folder",
            where=str(directory),
            remedy="Name a site's folder (with site.yaml) or the folder of a run.",
        )
    return [consortium.site(name) for name in consortium.sites]


def _audit(files: SiteFiles) -> "Audit":
    from hortus.privacy.audit import audit_ledger

    site = files.directory.resolve().name
    keys = Roster.load(files.roster).sites
    if site not in keys:
        raise UsageError(f"the roster has no site {site!r}", where=str(files.roster))
    if not files.ledger.exists():
        raise UsageError("there is no ledger yet", where=str(files.ledger))
    return audit_ledger(files.ledger, keys[site], site)


def _show(console: Console, result: "Audit") -> None:
    from hortus.privacy.audit import Severity

    table = Table(box=None, pad_edge=False, title=f"{result.site}: {result.entries} entries")
    for name in ("run", "round", "noise", "q", "σ/C", "C", "releases", "ε alone", "ε so far", "δ"):
        table.add_column(name, justify="right")
    for row in result.rounds:
        table.add_row(
            row.run[:8],
            str(row.round + 1),
            row.mode,
            f"{row.sampling_rate:g}",
            f"{row.noise_multiplier:.4f}",
            f"{row.clipping_norm:g}",
            str(row.releases),
            f"{row.epsilon_alone:.3f}",
            f"{row.epsilon_so_far:.3f}",
            f"{row.delta:g}",
        )
    console.print(table)
    for finding in result.findings:
        style = "red" if finding.severity is Severity.BROKEN else "yellow"
        console.print(f"entry {finding.entry}: {finding.problem}. {finding.meaning}", style=style)
    if not result.first_broken:
        console.print("chain, signatures and every ε hold", style="green")
