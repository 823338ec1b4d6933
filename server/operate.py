"""`hortus server`: Flower's SuperLink, the sites' registration, and one run to its end."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from hortus.server.trackers.reporting import read_trackers, reporting

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
        on_round: Called with each round that this start finishes.
        on_stage: Called with a few words about what the server does now.
        force: Start over where `out` holds a run.
        on_stop: Called when the run ends before its time, while its folder is still this process's.

    Raises:
        HortusError: The run failed, and finished rounds are kept; or a server of this folder is
            running, or something else in `out`, whose run is left alone.
    """
    contract, _ = prepare(plan, plan_path.resolve().parent)
    with sole(files), claimed(out):
        store = open_run(plan, plan_path, contract, out, simulated=False, force=force)
        with _reported(store, contract, files, on_round) as tell, stopping(out, on_stop):
            return _run_alone(store, plan_path, contract, files, tell, on_stage)


@contextmanager
def _reported(
    store: RunStore,
    contract: Contract,
    files: ServerFiles,
    on_round: Callable[[RoundRecord], None],
) -> Iterator[Callable[[RoundRecord], None]]:
    """Reports rounds to the trackers of server.yaml as well."""
    trackers = read_trackers(ServerConfig.load(files.config).report_to)
    with reporting(trackers, store.run, contract, store.directory, store.rounds) as report:

        def tell(record: RoundRecord) -> None:
            on_round(record)
            report(record)

        yield tell


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
    if _is_finished(store, contract):
        return store
    config, sites = ServerConfig.load(files.config), Roster.load(files.roster).sites
    heartbeat, registry, reporter = Heartbeat(), CollectorRegistry(), Reporter(out, on_stage)
    superlink = SuperLink(out / "flower", files.tls, config.superlink)
    registry.register(RunCollector(out, contract, len(sites), lambda: superlink.is_up))
    registry.register(CertificateCollector(files))
    serving = _Serving(store, contract, superlink, heartbeat, reporter, on_round)

    def unready() -> str | None:
        return None if superlink.is_up else "Flower's SuperLink is not running"

    def serve() -> None:
        forget_failure(out)
        reporter.tell(f"lets {len(sites)} sites in: {', '.join(sites)}")
        nodes = superlink.register({site: files.flower_key(site) for site in sites})
        heartbeat.beat()
        reporter.tell(f"starts the run; sites dial {config.dialled(config.superlink)}")
        serving.until_over(_submit(superlink, out, files, plan_path, nodes))

    with monitoring(config.monitoring, registry, heartbeat.reason, unready):
        reporter.tell("starts Flower's SuperLink")
        _restarting(superlink, serve, lambda: store.next_round)
    _check_finished(store, contract)
    return store


def _submit(
    superlink: SuperLink, out: Path, files: ServerFiles, plan_path: Path, nodes: Mapping[int, str]
) -> str:
    """Has Flower start the run's ServerApp, and relays at the sites; returns Flower's name of the run."""
    return superlink.submit(
        "hortus.server.app:app",
        "hortus.client.flower.relay:app",
        {
            "out": str(out.resolve()),
            "home": str(files.directory.resolve()),
            "plan": str(plan_path.resolve()),
            "nodes": json.dumps(nodes),
        },
    )


class _Serving:
    """Watches the ServerApp, which is a program of its own, by what it leaves in the run's folder."""

    def __init__(
        self,
        store: RunStore,
        contract: Contract,
        superlink: SuperLink,
        heartbeat: Heartbeat,
        reporter: Reporter,
        on_round: Callable[[RoundRecord], None],
    ) -> None:
        self._store, self._contract, self._superlink = store, contract, superlink
        self._heartbeat, self._reporter, self._on_round = heartbeat, reporter, on_round
        self._told = store.next_round

    def until_over(self, run: str) -> None:
        """Returns when a run of Flower's has ended.

        Raises:
            ProgramEnded: The SuperLink has died.
        """
        running, asked = True, time.monotonic()
        while running:
            time.sleep(_POLL_SECONDS)
            self._superlink.check()
            is_failed = read_failure(self._store.directory) is not None
            running = not is_failed and not _is_finished(self._store, self._contract)
            if running and time.monotonic() - asked > _ASK_FLOWER_SECONDS:
                running, asked = self._superlink.is_running(run), time.monotonic()
            self._heartbeat.beat()
            self._reporter.look()
            for record in self._store.rounds[self._told :]:
                self._on_round(record)
                self._told += 1


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
            logger.warning("%s and is being restarted; its log: %s", error.problem, error.remedy)


def _is_finished(store: RunStore, contract: Contract) -> bool:
    return store.is_over and is_complete(store.directory, contract.training.rounds)


def _check_finished(store: RunStore, contract: Contract) -> None:
    if _is_finished(store, contract):
        return
    out = store.directory
    if (failure := read_failure(out)) is not None:
        raise failure
    failure = HortusError(
        "the run ended early",
        where=str(out),
        remedy="Finished rounds are kept: the same command resumes. Flower's log ends with:\n"
        + tail(out / "flower" / "superlink.log"),
    )
    write_failure(out, failure)  # which says so where the disk is full
    raise failure
