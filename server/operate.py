"""`hortus server`: Flower's SuperLink, the sites' registration, and one run to its end."""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from hortus.parties.expiry import warn_of_expiry
from hortus.parties.folders import ServerConfig, ServerFiles
from hortus.parties.identity_change import sole
from hortus.parties.monitoring import CertificateCollector, Heartbeat, monitoring
from hortus.planning.prepare import prepare
from hortus.protocol.identity import Roster
from hortus.protocol.plan import Contract, Plan
from hortus.runtime.errors import HortusError
from hortus.runtime.processes import ProgramEnded, tail
from hortus.server.flower.superlink import SuperLink
from hortus.server.news import Reporter
from hortus.server.run.failure import forget_failure, read_failure, stopping, write_failure
from hortus.server.run.folder import claimed, open_run
from hortus.server.run.metrics import RunCollector
from hortus.server.run.records import RoundRecord
from hortus.server.run.results import is_complete
from hortus.server.run.store import RunStore

_POLL_SECONDS = 1.0
# A question to Flower starts its command line each time: seconds of a processor that sites may share.
_ASK_FLOWER_SECONDS = 20.0
logger = logging.getLogger(__name__)


def run_server(
    plan: Plan,
    plan_path: Path,
    files: ServerFiles,
    out: Path,
    on_round: Callable[[RoundRecord], None],
    on_stage: Callable[[str], None],
    *,
    force: bool = False,
    on_stop: Callable[[], None] = lambda: None,
) -> RunStore:
    """Serves a plan until all its rounds are done; resumes where an earlier start was stopped.

    Args:
        plan: The plan.
        plan_path: Its file.
        files: The server's folder.
        out: The run's folder.
        on_round: Told of each round that this start finishes.
        on_stage: Told in some words what the server does now.
        force: Start over where `out` holds a run.
        on_stop: Called when the run ends before its time, while its folder is still this process's.

    Raises:
        HortusError: The run failed, and finished rounds are kept; or a server of this folder is
            running, or something else in `out`, whose run is left alone.
    """
    contract, _ = prepare(plan, plan_path.resolve().parent)
    with sole(files), claimed(out):
        store = open_run(plan, plan_path, contract, out, simulated=False, force=force)
        with stopping(out, on_stop):
            return _run_alone(store, plan_path, contract, files, on_round, on_stage)


def _run_alone(
    store: RunStore,
    plan_path: Path,
    contract: Contract,
    files: ServerFiles,
    on_round: Callable[[RoundRecord], None],
    on_stage: Callable[[str], None],
) -> RunStore:
    out = store.directory
    warn_of_expiry(files, datetime.now(UTC), logger)
    if _is_finished(store, contract, out):
        return store
    config, sites = ServerConfig.load(files.config), Roster.load(files.roster).sites
    told, heartbeat, registry = store.next_round, Heartbeat(), CollectorRegistry()
    superlink = SuperLink(out / "flower", files.tls, config.superlink)
    registry.register(RunCollector(out, contract, len(sites), lambda: superlink.is_up))
    registry.register(CertificateCollector(files))

    def unready() -> str | None:
        return None if superlink.is_up else "Flower's SuperLink does not run"

    reporter = Reporter(out, on_stage)

    def serve() -> None:
        nonlocal told
        forget_failure(out)
        reporter.tell(f"lets {len(sites)} sites in: {', '.join(sites)}")
        nodes = superlink.register({site: files.flower_key(site) for site in sites})
        heartbeat.beat()
        reporter.tell(f"starts the run; sites dial {config.dialled(config.superlink)}")
        run = superlink.submit(
            "hortus.server.app:app",
            "hortus.client.flower.relay:app",
            {
                "out": str(out.resolve()),
                "home": str(files.directory.resolve()),
                "plan": str(plan_path.resolve()),
                "nodes": json.dumps(nodes),
            },
        )
        running, asked = True, time.monotonic()
        while running:
            time.sleep(_POLL_SECONDS)
            superlink.check()
            running = not _is_finished(store, contract, out) and read_failure(out) is None
            if running and time.monotonic() - asked > _ASK_FLOWER_SECONDS:
                running, asked = superlink.is_running(run), time.monotonic()
            heartbeat.beat()
            reporter.look()
            for record in store.rounds[told:]:
                on_round(record)
                told += 1

    with monitoring(config.monitoring, registry, heartbeat.reason, unready):
        reporter.tell("starts Flower's SuperLink")
        _restarting(superlink, serve, lambda: store.next_round)
    _check_finished(store, contract, out)
    return store


def _restarting(
    superlink: SuperLink, serve: Callable[[], None], next_round: Callable[[], int]
) -> None:
    """Starts a SuperLink that has died again, unless it died before in the same round."""
    died_in: int | None = None
    while True:
        try:
            with superlink:
                return serve()
        except ProgramEnded as error:
            if died_in == (number := next_round()):
                raise
            died_in = number
            logger.warning("%s and is started again; its log: %s", error.problem, error.remedy)


def _is_finished(store: RunStore, contract: Contract, out: Path) -> bool:
    return store.is_over and is_complete(out, contract.training.rounds)


def _check_finished(store: RunStore, contract: Contract, out: Path) -> None:
    if _is_finished(store, contract, out):
        return
    if (failure := read_failure(out)) is not None:
        raise failure
    failure = HortusError(
        "the run ended before its time",
        where=str(out),
        remedy="Finished rounds are kept: the same command resumes. Flower's log ends with:\n"
        + tail(out / "flower" / "superlink.log"),
    )
    write_failure(out, failure)  # which says so where the disk is full
    raise failure
