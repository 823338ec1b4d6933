"""What `hortus status` tells of the server's folder and of a run's, beside a running server."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from hortus.protocol.consortium import ServerConfig, ServerFiles
from hortus.protocol.expiry import certificate_lines
from hortus.protocol.fingerprint import key_words, roster_lines
from hortus.protocol.identity import SERVER, SiteIdentity
from hortus.protocol.succession import is_held
from hortus.server.notary import last_contacts
from hortus.server.run_records import read_contract, read_run

_ROUNDS_SHOWN = 5


def server_status(files: ServerFiles, now: datetime) -> dict[str, object]:
    """Returns the server's status as JSON has it.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
        HortusError: The notary's file cannot be read.
    """
    config = ServerConfig.load(files.config)
    key = SiteIdentity.load(files.identity, SERVER).public_key_bytes
    return {
        "kind": "server",
        "name": SERVER,
        "fingerprint": key_words(SERVER, key),
        "aggregation": config.aggregation,
        "superlink": config.superlink,
        "state": "running" if is_held(files.lock) else "not running",
        "contacts": {
            site: datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
            for site, seconds in last_contacts(files.heads).items()
        },
        "roster": roster_lines(files.roster),
        "certificates": certificate_lines(files, now),
    }


def run_status(directory: Path) -> dict[str, object]:
    """Returns a run's status as JSON has it: who took part last, who left and why.

    Raises:
        HortusError: There is no run here, or it cannot be read.
    """
    contract = read_contract(directory)
    rows = read_run(directory)
    return {
        "kind": "run",
        "name": contract.name,
        "run": rows.run,
        "plan": contract.digest(),
        "rounds_finished": len(rows.rounds),
        "rounds_planned": contract.training.rounds,
        "delta": contract.privacy.delta,
        "sites": list(rows.rounds[-1].sites) if rows.rounds else [],
        "departures": [asdict(d) | {"round": d.round + 1} for d in rows.departures],
        "rounds": [
            {
                "round": record.round + 1,
                "sites": list(record.sites),
                "attempts": record.attempts,
                "epsilon": record.epsilon,
                "seconds": record.seconds,
            }
            for record in rows.rounds[-_ROUNDS_SHOWN:]
        ],
    }
