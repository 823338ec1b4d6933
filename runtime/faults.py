"""Named points at which a test kills a process: before and after whatever must survive that.

In production a point is one look at the environment. A test names a file, the journal, in
`HORTUS_UNSAFE_FAULTS`. Its first line says `trace`, or `POINT NUMBER`; every point that is reached
adds a line. The process that reaches POINT for the NUMBER-th time, counted over all processes and
restarts, kills itself, as `kill -9` would.
"""

import fcntl
import os
import signal
from enum import StrEnum
from pathlib import Path

SWITCH = "HORTUS_UNSAFE_FAULTS"


class Fault(StrEnum):
    """Every point there is."""

    # A file that is written whole or not at all (runtime/files.py).
    FILE_BEFORE_FSYNC = "file-before-fsync"
    FILE_BEFORE_RENAME = "file-before-rename"
    FILE_BEFORE_DIRECTORY_FSYNC = "file-before-directory-fsync"
    FILE_DURABLE = "file-durable"

    # A transaction of a site's ledger (privacy/ledger/store.py), and of the notary (server/sums/notary.py).
    LEDGER_BEFORE_BEGIN = "ledger-before-begin"
    LEDGER_BEFORE_COMMIT = "ledger-before-commit"
    LEDGER_DURABLE = "ledger-durable"
    NOTARY_BEFORE_COMMIT = "notary-before-commit"
    NOTARY_DURABLE = "notary-durable"

    # A site's messages to the server, and the answers (client/channel.py).
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

    # Between Flower's client and the agent (client/flower/relay.py).
    RELAY_BEFORE_QUERY = "relay-before-query"
    RELAY_AFTER_QUERY = "relay-after-query"
    RELAY_BEFORE_TRAIN = "relay-before-train"
    RELAY_AFTER_TRAIN = "relay-after-train"

    # A site's message at the server (server/sums/service.py), and a chunk of one (server/sums/attempt.py).
    SERVER_RECEIVED = "server-received"
    SERVER_BEFORE_CHUNK = "server-before-chunk"
    SERVER_AFTER_CHUNK = "server-after-chunk"
    SERVER_BEFORE_ANSWER = "server-before-answer"

    # The round loop (server/round_loop.py).
    LOOP_BEFORE_QUERY = "loop-before-query"
    LOOP_AFTER_QUERY = "loop-after-query"
    LOOP_BEFORE_TRAIN = "loop-before-train"
    LOOP_AFTER_TRAIN = "loop-after-train"
    LOOP_AFTER_KEYS = "loop-after-keys"
    LOOP_AFTER_SUM = "loop-after-sum"
    LOOP_AFTER_SESSION = "loop-after-session"

    # A round that is made durable (server/run/store.py).
    ROUND_BEFORE_CHECKPOINT = "round-before-checkpoint"
    ROUND_BEFORE_COMMIT = "round-before-commit"
    ROUND_DURABLE = "round-durable"
    ROUND_AFTER_METRICS = "round-after-metrics"
    ROUND_AFTER_FORGETTING = "round-after-forgetting"


def reach(fault: Fault) -> None:
    """Marks a point; see the module's docstring."""
    if SWITCH in os.environ:
        _record(Path(os.environ[SWITCH]), fault)


def _record(journal: Path, fault: Fault) -> None:
    with journal.open("r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        order, *reached = file.read().splitlines()
        file.write(f"{fault} {os.getpid()}\n")
        file.flush()
        times = 1 + sum(line.split()[0] == fault for line in reached)
        if order == f"{fault} {times}":
            os.kill(os.getpid(), signal.SIGKILL)
