"""What `hortus audit` has found, for the terminal, the page and JSON alike."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from hortus.parties.folders import Consortium, SiteConfig, SiteFiles
from hortus.privacy.audit.auditor import Audit
from hortus.privacy.audit.auditor import audit as audit_evidence
from hortus.privacy.audit.evidence import Evidence, collect, load
from hortus.privacy.audit.reconcile import Departed, Omission, departed, forks, omissions
from hortus.privacy.audit.verdict import Reach, Verdict, judge, overall
from hortus.protocol.heads import LedgerHead
from hortus.protocol.identity import Roster
from hortus.runtime.errors import UsageError
from hortus.server.run.accounts import read_accounts
from hortus.server.run.records import read_record, read_run


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One ledger.

    Attributes:
        audit: What was found in it.
        verdict: The verdict on it.
        source: What was read.
        digest: SHA-256 of the bundle, hexadecimal; empty for a folder.
    """

    audit: Audit
    verdict: Verdict
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Everything that was shown.

    Attributes:
        verdict: On all of it.
        sites: Each ledger, as it was named.
        lacking: Where ledgers and other records disagree.
        departures: Sites that left, according to the server's record.
        runs: Runs whose record the server has shown.
        roster: The auditor's own keys; empty if those in the evidence were used.
        made: When, in seconds since the epoch.
    """

    verdict: Verdict
    sites: tuple[SiteReport, ...]
    lacking: tuple[Omission, ...]
    departures: tuple[Departed, ...]
    runs: tuple[str, ...]
    roster: str
    made: float


@dataclass(frozen=True, slots=True)
class _Shown:
    """A ledger that was named, and its path."""

    evidence: Evidence
    path: Path

    @property
    def is_live(self) -> bool:
        return self.path.is_dir()

    def digest(self) -> str:
        return "" if self.is_live else hashlib.sha256(self.path.read_bytes()).hexdigest()


def make_report(
    paths: Sequence[Path], anchor: Path | None, roster: Path | None, now: float
) -> AuditReport:
    """Audits everything that is named.

    Raises:
        UsageError: A path is missing or cannot be audited, or there is no ledger.
        HortusError: A ledger cannot be read.
    """
    runs = [path for path in paths if is_run(path)]
    # A site charges before it sends, and the server records afterwards: in this order, neither accuses the other.
    before = [read_record(path) for path in runs]
    shown = [one for path in paths for one in _shown(path)]
    if not shown:
        raise _no_ledger(paths[0])
    trusted = Roster.load(roster) if roster else None
    kept = LedgerHead.load(anchor) if anchor else None
    if kept and kept.site not in {one.evidence.site for one in shown}:
        raise UsageError(
            f"the anchor belongs to {kept.site}, whose ledger is not here", where=str(anchor)
        )
    audits = [
        audit_evidence(
            one.evidence,
            trusted or one.evidence.roster,
            kept if kept and kept.site == one.evidence.site else None,
        )
        for one in shown
    ]
    records = [read_record(path) for path in runs]
    lacking = forks([one.evidence for one in shown])
    departures: list[Departed] = []
    for path, early, late in zip(runs, before, records, strict=True):
        lacking += omissions(early, audits, late)
        left = [(one.round, one.site, one.reason) for one in read_run(path).departures]
        departures += departed(late.run, left, audits)
    sites = []
    for one, audited in zip(shown, audits, strict=True):
        reach = Reach.of(audited, records, is_live=one.is_live)
        verdict = judge(audited, reach, lacking)
        sites.append(SiteReport(audited, verdict, str(one.path), one.digest()))
    return AuditReport(
        verdict=overall([(one.audit.site, one.verdict) for one in sites], lacking),
        sites=tuple(sites),
        lacking=tuple(lacking),
        departures=tuple(departures),
        runs=tuple(late.run for late in records),
        roster=str(roster or ""),
        made=now,
    )


def evidence_of(path: Path) -> list[Evidence]:
    """Returns what a path holds: a bundle's evidence, a site's, or that of each site of a run.

    Raises:
        UsageError: The path is missing or cannot be audited.
        HortusError: A ledger cannot be read.
    """
    return [one.evidence for one in _shown(path)]


def _no_ledger(path: Path) -> UsageError:
    run = quote(str(path))
    if read_accounts(path):
        return UsageError(
            "this is a simulation whose sites kept no ledger, so there is nothing to audit",
            where=str(path),
            remedy="The same plan and seed give the same bits, and every site a ledger, with: hortus simulate "
            f"{quote(str(path / 'plan.yaml'))} --engine rehearsal --out FOLDER",
        )
    return UsageError(
        "no site's ledger was named, and a server's claims are not evidence of ε",
        where=str(path),
        remedy="Ask the sites for their ledgers (hortus audit export SITE_DIR FILE), and name them too: "
        f"hortus audit {run} FILE…\nWhat the server claims: hortus status {run}",
    )


def is_run(path: Path) -> bool:
    """Returns whether a folder is that of a run."""
    return (path / "contract.json").exists() and (path / "run.sqlite").exists()


def _shown(path: Path) -> list[_Shown]:
    if path.is_file():
        return [_Shown(load(path), path)]
    return [
        _Shown(collect(files, SiteConfig.load(files.config).site), files.directory)
        for files in _sites(path)
    ]


def _sites(directory: Path) -> list[SiteFiles]:
    if not directory.exists():
        raise UsageError("there is no such file or folder", where=str(directory))
    if SiteFiles(directory).config.exists():
        return [SiteFiles(directory)]
    inner = directory / "consortium"
    consortium = Consortium(inner if inner.is_dir() else directory)
    if (consortium.directory / "sites").is_dir():
        files = [consortium.site(name) for name in consortium.sites]
        # A site that refused from the beginning has no ledger.
        return [one for one in files if one.ledger.exists()]
    if is_run(directory):
        return []
    raise UsageError(
        "this folder has no site",
        where=str(directory),
        remedy="Name a site's folder (with site.yaml), an evidence bundle or the folder of a run.",
    )
