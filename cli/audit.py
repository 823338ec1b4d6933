"""`hortus audit`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli.attack import attack
from hortus.cli.display import echo_json, terminal
from hortus.cli.groups import FallbackGroup
from hortus.runtime.errors import UsageError
from hortus.runtime.files import write_atomic

audit = typer.Typer(
    name="audit",
    cls=FallbackGroup,
    no_args_is_help=True,
    help="Verify what was spent: hortus audit PATH verifies the ledgers in PATH.",
)

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]


@audit.command()
def ledger(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A site's folder, evidence bundles, or a run's folder, with or without those of its sites."
        ),
    ],
    anchor: Annotated[
        Path | None, typer.Option(help="An earlier head of this site's ledger, kept elsewhere.")
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(help="A roster of keys to trust instead of those in the evidence."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page to read or to print.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Verify ledgers and recompute every ε with a second accountant.

    Compares a run's folder with its sites' ledgers and names whatever either side lacks. A run's folder alone is not
    evidence: without a ledger there is nothing to verify.

    Exit codes: 0 everything holds; 1 something does not hold; 4 everything shown holds, and nothing
    shows what came later: also name the run's folder, or an anchor that was kept elsewhere.
    """
    from hortus.server.audit_report import make_report

    console = terminal()
    report = make_report(paths, anchor, roster, time.time())
    if as_json:
        from hortus.cli.audit_json import as_json as to_json

        echo_json(to_json(report))
    else:
        from hortus.cli.audit_text import show_report

        show_report(console, report)
    if html is not None:
        from hortus.cli.audit_page import audit_page

        write_atomic(html, audit_page(report).encode())
    if report.verdict.outcome.exit_code:
        raise typer.Exit(report.verdict.outcome.exit_code)


@audit.command()
def export(
    site: SiteFolder,
    file: Annotated[Path, typer.Argument(help="File to write the bundle to.")],
) -> None:
    """Write a site's evidence to one file for an external auditor.

    It contains no record. It does contain the names of everyone who approved plans, and the reasons that they gave.
    """
    from hortus.privacy.audit.evidence import export as write_evidence
    from hortus.server.audit_report import evidence_of

    found = evidence_of(site)
    if len(found) != 1:
        raise UsageError("this is not one site's folder", where=str(site))
    (evidence,) = found
    write_evidence(evidence, file)
    terminal().print(f"{file}: {len(evidence.rows)} entries of {evidence.site}")


audit.command()(attack)
