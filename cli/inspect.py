"""`hortus audit`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hortus.privacy.audit import Audit, Severity, audit_ledger
from hortus.protocol.consortium import Consortium, SiteFiles
from hortus.protocol.errors import UsageError
from hortus.protocol.identity import Roster


def audit(
    directory: Annotated[Path, typer.Argument(help="A site's folder, or a simulated run's.")],
) -> None:
    """Verify ledgers and recompute every ε with a second accountant.

    Exit code 0 only if every entry holds.
    """
    console = Console()
    audits = [_audit(files) for files in _sites(directory)]
    for result in audits:
        _show(console, result)
    if any(result.first_broken for result in audits):
        raise typer.Exit(1)


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
            remedy="Name a site's folder (with site.yaml) or the folder of a simulated run. A "
            "deployed server holds no ledgers: each site audits its own.",
        )
    return [consortium.site(name) for name in consortium.sites]


def _audit(files: SiteFiles) -> Audit:
    site = files.directory.resolve().name
    keys = Roster.load(files.roster).sites
    if site not in keys:
        raise UsageError(f"the roster has no site {site!r}", where=str(files.roster))
    if not files.ledger.exists():
        raise UsageError("there is no ledger yet", where=str(files.ledger))
    return audit_ledger(files.ledger, keys[site], site)


def _show(console: Console, result: Audit) -> None:
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
