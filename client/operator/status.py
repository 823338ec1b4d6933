"""What `hortus status SITE_DIR` shows: all of it from the site's own files, beside a running agent."""

from dataclasses import asdict
from datetime import datetime

from hortus.client.consent.approval import consented
from hortus.client.operator.accounts import account_lines, opened_ledger
from hortus.client.site.connection import read_connection
from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.parties.standing import party_standing
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.heads import LedgerHead
from hortus.runtime.locks import is_held
from hortus.runtime.metric import finite
from hortus.runtime.moments import iso_time
from hortus.runtime.names import SERVER

_ROUNDS_SHOWN = 5


def site_status(files: SiteFiles, now: datetime) -> dict[str, object]:
    """Returns a site's status as JSON has it; an ε that is infinite is None.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
        HortusError: The ledger was altered.
    """
    config = SiteConfig.load(files.config)
    name = config.site
    with opened_ledger(files.directory, now.timestamp) as (ledger, policy):
        budget = policy.budget
        datasets = [
            {
                "dataset": line.dataset,
                "unit": line.unit,
                "epsilon_spent": finite(line.spent),
                "epsilon_limit": line.limit,
                "frozen": line.frozen,
                "contents": line.contents,
                "disjoint": None if line.statement is None else asdict(line.statement),
            }
            for line in account_lines(ledger, budget)
        ]
        approvals = [one.line() for one in consented(ledger) if one.is_in_force]
        rounds = _last_rounds(ledger)
        seen = ledger.last_countersigned()
        entries, anchor = ledger.head()[0], _anchor(ledger, files, config)
    return {
        "kind": "site",
        "connection": _connection(files) if is_held(files.lock) else None,
        **party_standing(files, name, {} if seen is None else {SERVER: seen}, now),
        "approvals": approvals,
        "delta": budget.delta,
        "datasets": datasets,
        "rounds": rounds,
        "entries": entries,
        "anchor": anchor,
    }


def _anchor(ledger: Ledger, files: SiteFiles, config: SiteConfig) -> dict[str, object] | None:
    """The head that the operator keeps elsewhere, and whether the ledger still contains it; None without one."""
    if config.anchor is None:
        return None
    path = files.directory / config.anchor
    head = LedgerHead.load(path)
    return {
        "file": str(path),
        "entry": head.seq,
        "contained": ledger.contains(head.seq, head.hash),
    }


def _connection(files: SiteFiles) -> dict[str, object] | None:
    """The state of a running agent's connection to the server, as the agent reports it."""
    found = read_connection(files)
    if found is None:
        return None
    return {
        "state": found.link.value,
        "server": found.server,
        "since": iso_time(found.since),
        "problem": found.problem,
        "remedy": found.remedy,
    }


def _last_rounds(ledger: Ledger) -> list[dict[str, object]]:
    """The last rounds that anything was released for, oldest first."""
    last: dict[tuple[str, int], dict[str, object]] = {}
    for entry in ledger.entries():
        if isinstance(entry.body, Charged):
            charge = entry.body.charge
            last[charge.run, charge.round] = {
                "run": charge.run,
                "round": charge.round + 1,
                "time": iso_time(entry.time),
                "epsilon": finite(entry.body.epsilon_after),
            }
    return list(last.values())[-_ROUNDS_SHOWN:]
