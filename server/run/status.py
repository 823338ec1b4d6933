"""What `hortus status` tells of the server's folder and of a run's, beside a running server."""

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from hortus.parties.folders import ServerConfig, ServerFiles
from hortus.parties.standing import party_standing
from hortus.runtime.moments import iso_time
from hortus.runtime.names import SERVER
from hortus.server.run.absences import absences
from hortus.server.run.attendance import Attendance, is_attended, read_attendance
from hortus.server.run.records import read_contract, read_run
from hortus.server.sums.notary import last_contacts

_ROUNDS_SHOWN = 5


def server_status(files: ServerFiles, now: datetime) -> dict[str, object]:
    """Returns the server's status as JSON has it.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
        HortusError: The notary's file cannot be read.
    """
    config = ServerConfig.load(files.config)
    return {
        "kind": "server",
        "aggregation": config.aggregation,
        "superlink": config.superlink,
        **party_standing(files, SERVER, last_contacts(files.heads), now),
    }


def run_status(directory: Path) -> dict[str, object]:
    """Returns a run's status as JSON has it: who took part last, who left and why.

    Raises:
        HortusError: There is no run here, or it cannot be read.
    """
    contract = read_contract(directory)
    rows = read_run(directory)
    is_on = is_attended(directory)
    return {
        "kind": "run",
        "name": contract.name,
        "run": rows.run,
        "state": "running" if is_on else "not running",
        "attendance": _attendance(read_attendance(directory)) if is_on else None,
        "plan": contract.digest(),
        "rounds_finished": len(rows.rounds),
        "rounds_planned": contract.training.rounds,
        "delta": contract.privacy.delta,
        "sites": list(rows.rounds[-1].sites) if rows.rounds else [],
        "absences": [asdict(one) for one in absences(rows.departures, rows.rounds)],
        "rounds": [
            {
                "round": record.round + 1,
                "sites": list(record.sites),
                "attempts": record.attempts,
                "epsilon": record.epsilon,
            }
            for record in rows.rounds[-_ROUNDS_SHOWN:]
        ],
    }


def _attendance(found: Attendance | None) -> dict[str, object] | None:
    """What the server does now, and how it is with each site; times in UTC."""
    if found is None:
        return None
    return {
        "now": found.in_words,
        "round": found.round,
        "sites": {
            name: {
                "state": seen.in_words,
                "connected": seen.connected,
                "in_session": seen.joined,
                "last_heard": None if seen.heard is None else iso_time(seen.heard),
            }
            for name, seen in found.sites.items()
        },
    }
