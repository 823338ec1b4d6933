"""`hortus audit`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.audit_table import round_tables
from hortus.cli.display import echo_json, terminal
from hortus.cli.groups import FallbackGroup
from hortus.protocol.consortium import Consortium, SiteConfig, SiteFiles
from hortus.protocol.errors import UsageError
from hortus.protocol.files import write_atomic
from hortus.protocol.heads import Head
from hortus.protocol.identity import Roster

if TYPE_CHECKING:
    from hortus.privacy.audit import Audit
    from hortus.privacy.evidence import Evidence
    from hortus.privacy.omissions import Departed, Omission

audit = typer.Typer(
    name="audit",
    cls=FallbackGroup,
    no_args_is_help=True,
    help="Check what was spent: hortus audit PATH verifies the ledgers in it.",
)

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]


@audit.command()
def ledger(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A site's folder, evidence bundles, or a run's folder, alone or with its sites'."
        ),
    ],
    anchor: Annotated[
        Path | None, typer.Option(help="A head of this site's ledger that was kept elsewhere.")
    ] = None,
    roster: Annotated[
        Path | None, typer.Option(help="Keys to trust, instead of those in the evidence.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page, to read or to print.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Verify ledgers and recompute every ε with a second accountant.

    A run's folder is compared with its sites' ledgers, and what either side lacks is named; without
    any ledger, the server's own claims are shown. Exit code 0 only if everything holds.
    """
    from hortus.privacy.audit import audit as audit_evidence
    from hortus.privacy.omissions import departed, forks, omissions
    from hortus.server.run_records import read_run

    console = terminal()
    if not any(path.is_file() or _sites(path) for path in paths):
        _show_claims(console, paths[0])
        return
    runs = [path for path in paths if _is_run(path)]
    # A site charges before it sends, and the server records after: so read, neither accuses the other.
    before = [read_run(path) for path in runs]
    collected = [one for path in paths for one in _evidence(path)]
    trusted = Roster.load(roster) if roster else None
    kept = Head.load(anchor) if anchor else None
    audits = [
        audit_evidence(one, trusted or one.roster, kept if kept and kept.site == one.site else None)
        for one in collected
    ]
    if kept and kept.site not in {one.site for one in collected}:
        raise UsageError(
            f"the anchor is {kept.site}'s, whose ledger is not here", where=str(anchor)
        )
    after = [read_run(path) for path in runs]
    lacking = forks(collected)
    departures: list[Departed] = []
    for early, late in zip(before, after, strict=True):
        lacking += omissions(early.record, audits, late.record)
        left = [(one.round, one.site, one.reason) for one in late.departures]
        departures += departed(late.run, left, audits)
    holds = not lacking and not any(result.first_broken for result in audits)
    if as_json:
        echo_json(_as_json(audits, lacking, departures, holds=holds))
    else:
        for result in audits:
            _show(console, result)
        for one in departures:
            console.print(_departure_line(one))
        for omission in lacking:
            console.print(f"{omission.site}: {omission.problem}", style="red")
    if html is not None:
        from hortus.cli.audit_page import audit_page

        write_atomic(html, audit_page(audits, lacking, departures).encode())
    if not holds:
        raise typer.Exit(1)


@audit.command()
def export(
    site: SiteFolder,
    file: Annotated[Path, typer.Argument(help="Where the bundle goes.")],
) -> None:
    """Write a site's evidence to one file, for an auditor elsewhere. No record is in it."""
    from hortus.privacy.evidence import export as write_evidence

    (evidence,) = _evidence(site)
    write_evidence(evidence, file)
    terminal().print(f"{file}: {len(evidence.rows)} entries of {evidence.site}")


def _evidence(path: Path) -> "list[Evidence]":
    from hortus.privacy.evidence import collect, load

    if path.is_file():
        return [load(path)]
    return [collect(files, SiteConfig.load(files.config).site) for files in _sites(path)]


def _sites(directory: Path) -> list[SiteFiles]:
    if SiteFiles(directory).config.exists():
        return [SiteFiles(directory)]
    inner = directory / "consortium"
    consortium = Consortium(inner if inner.is_dir() else directory)
    if (consortium.directory / "sites").is_dir():
        files = [consortium.site(name) for name in consortium.sites]
        # A site that refused from the beginning has no ledger.
        return [one for one in files if one.ledger.exists()]
    if _is_run(directory):
        return []
    raise UsageError(
        "there is no site in this folder",
        where=str(directory),
        remedy="Name a site's folder (with site.yaml), an evidence bundle or the folder of a run.",
    )


def _is_run(path: Path) -> bool:
    return (path / "contract.json").exists() and (path / "run.sqlite").exists()


def _departure_line(one: "Departed") -> str:
    backing = {
        True: "signed in its ledger",
        False: "the server alone says so",
        None: "its ledger is not here",
    }
    return f"{one.site}, from round {one.round + 1} on: {one.reason} ({backing[one.is_signed]})"


def _show_claims(console: Console, directory: Path) -> None:
    from hortus.server.run_records import read_contract, read_run

    contract = read_contract(directory)
    table = Table("round", "sites", "attempts", "ε claimed", box=None, title=contract.name)
    for record in read_run(directory).rounds:
        claim = "∞" if record.epsilon is None else f"{record.epsilon:.3f}"
        table.add_row(str(record.round + 1), ", ".join(record.sites), str(record.attempts), claim)
    console.print(table)
    console.print(
        f"The server's claim at δ = {contract.privacy.delta:g}, for {contract.digest()}. Proof is in "
        "the sites' own ledgers: hortus audit SITE_DIR"
    )


def _show(console: Console, result: "Audit") -> None:
    from hortus.privacy.findings import Severity

    console.print(f"{result.site}: {result.entries} entries", style="bold")
    for part in round_tables(result.rounds):
        console.print(part)
    for one in result.decisions:
        told = f" ε = {one.epsilon:g}" if one.epsilon else ""
        if one.others:
            others = ", ".join(other[:16] for other in one.others)
            told = f" from {others}, says {one.operator}"
        console.print(f"entry {one.entry}: {one.kind}{told}, {one.dataset[:16]}: {one.reason}")
    for refusal in result.refusals:
        asked = f"run {refusal.run[:16]}, round {refusal.round + 1}" if refusal.run else "a plan"
        console.print(f"entry {refusal.entry}: refused {asked}: {refusal.reason}")
    for finding in result.findings:
        style = "red" if finding.severity is Severity.BROKEN else "yellow"
        where = f"entry {finding.entry}" if finding.entry else "the ledger"
        console.print(f"{where}: {finding.problem}. {finding.meaning}", style=style)
    console.print(_head_line(result))
    if not result.first_broken:
        console.print("chain, signatures and every ε hold", style="green")


def _head_line(result: "Audit") -> str:
    seq, hash_ = result.head
    seen = f"the server countersigned entry {result.countersigned}"
    seen = seen if result.countersigned else "the server has countersigned none"
    line = f"ends with entry {seq} ({hash_[:16]}…); {seen}"
    witnessed = max(result.countersigned, result.anchored)
    if witnessed >= seq:
        return line
    return (
        f"{line}; from entry {witnessed + 1} on it rests on the site's word: keep an anchor elsewhere "
        "(hortus budget anchor)"
    )


def _as_json(
    audits: "Sequence[Audit]",
    lacking: "Sequence[Omission]",
    departures: "Sequence[Departed]",
    *,
    holds: bool,
) -> Any:  # noqa: ANN401 - any JSON
    """Infinite ε and limits are `null`: JSON has no number for them."""
    sites = [asdict(one) for one in audits]
    for site in sites:
        del site["charges"]
    value = {
        "holds": holds,
        "sites": sites,
        "omissions": [asdict(one) for one in lacking],
        "departures": [asdict(one) for one in departures],
    }
    return _finite(value)


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        return None
    return value
