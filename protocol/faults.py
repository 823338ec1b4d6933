"""Named points at which a test kills a process: before and after whatever must survive that.

Nothing happens in production but one look at the environment. A test names a file in
`HORTUS_UNSAFE_FAULTS`; its first line is `trace`, or `POINT NUMBER`. Each point that is reached adds
a line to it, and the process that reaches POINT for the NUMBER-th time, counted over all processes
and restarts, kills itself as `kill -9` does.
"""

import fcntl
import os
import signal
from enum import StrEnum
from pathlib import Path

SWITCH = "HORTUS_UNSAFE_FAULTS"


class Fault(StrEnum):
    """Every point there is."""

    # A file that is written whole or not at all (protocol/files.py).
    FILE_BEFORE_WRITE = "file-before-write"
    FILE_BEFORE_FSYNC = "file-before-fsync"
    FILE_BEFORE_RENAME = "file-before-rename"
    FILE_BEFORE_DIRECTORY_FSYNC = "file-before-directory-fsync"
    FILE_AFTER_DIRECTORY_FSYNC = "file-after-directory-fsync"

    # A transaction of a site's ledger (privacy/ledger.py).
    LEDGER_BEFORE_WRITE = "ledger-before-write"
    LEDGER_BEFORE_COMMIT = "ledger-before-commit"
    LEDGER_AFTER_COMMIT = "ledger-after-commit"

    # Messages of a site to the server, and its answers (client/session.py).
    SITE_BEFORE_ANNOUNCE = "site-before-announce"
    SITE_AFTER_ANNOUNCE = "site-after-announce"
    SITE_BEFORE_ENCAPSULATE = "site-before-encapsulate"
    SITE_AFTER_ENCAPSULATE = "site-after-encapsulate"
    SITE_BEFORE_READY = "site-before-ready"
    SITE_AFTER_READY = "site-after-ready"
    SITE_BEFORE_ADAPTER = "site-before-adapter"
    SITE_AFTER_ADAPTER = "site-after-adapter"
    SITE_BEFORE_UPLOAD = "site-before-upload"
    SITE_WITHIN_UPLOAD = "site-within-upload"
    SITE_AFTER_UPLOAD = "site-after-upload"

    # Between Flower's client and the agent (client/relay.py).
    RELAY_BEFORE_QUERY = "relay-before-query"
    RELAY_AFTER_QUERY = "relay-after-query"
    RELAY_BEFORE_TRAIN = "relay-before-train"
    RELAY_AFTER_TRAIN = "relay-after-train"

    # Messages of the server to a site (server/aggregator.py).
    SERVER_BEFORE_ANNOUNCEMENTS = "server-before-announcements"
    SERVER_BEFORE_ENCAPSULATIONS = "server-before-encapsulations"
    SERVER_BEFORE_GO = "server-before-go"
    SERVER_AFTER_GO = "server-after-go"
    SERVER_BEFORE_ADAPTER = "server-before-adapter"
    SERVER_BEFORE_CHUNK = "server-before-chunk"
    SERVER_AFTER_CHUNK = "server-after-chunk"
    SERVER_BEFORE_RECEIPT = "server-before-receipt"

    # The round loop (server/federation.py).
    LOOP_BEFORE_QUERY = "loop-before-query"
    LOOP_AFTER_QUERY = "loop-after-query"
    LOOP_BEFORE_TRAIN = "loop-before-train"
    LOOP_AFTER_TRAIN = "loop-after-train"
    LOOP_AFTER_KEYS = "loop-after-keys"
    LOOP_AFTER_SUM = "loop-after-sum"
    LOOP_AFTER_CLOSE = "loop-after-close"

    # A round that is made durable (server/run_store.py).
    ROUND_BEFORE_CHECKPOINT = "round-before-checkpoint"
    ROUND_AFTER_CHECKPOINT = "round-after-checkpoint"
    ROUND_BEFORE_COMMIT = "round-before-commit"
    ROUND_AFTER_COMMIT = "round-after-commit"
    ROUND_AFTER_METRICS = "round-after-metrics"


def reach(fault: Fault) -> None:
    """Marks a point; see the module's docstring."""
    if SWITCH in os.environ:
        _record(Path(os.environ[SWITCH]), fault)


def _record(journal: Path, fault: Fault) -> None:
    with journal.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        order, *reached = file.read().splitlines()
        file.write(f"{fault} {os.getpid()}\n")
        file.flush()
        times = 1 + sum(line.split()[0] == fault for line in reached)
        if order == f"{fault} {times}":
            os.kill(os.getpid(), signal.SIGKILL)
