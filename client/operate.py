"""`hortus client`: the site agent, its local socket, and the SuperNode that relays to it."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from hortus.client.agent import SiteAgent
from hortus.client.agent_service import listening
from hortus.client.channel import dialling
from hortus.client.consent.refusals import check_model
from hortus.client.flower.relay_user import RelayUser
from hortus.client.flower.supernode import start_supernode, supernode_log
from hortus.client.metrics import SiteCollector, SiteCounts, counting
from hortus.client.pace import MachineClock
from hortus.client.site.connection import ConnectionBook, Link, end_of, said_by_supernode
from hortus.client.site.folder import Site
from hortus.parties.expiry import DailyWarning, warn_of_expiry
from hortus.parties.folders import SiteFiles
from hortus.parties.identity_change import sole
from hortus.parties.monitoring import CertificateCollector, Heartbeat, monitoring
from hortus.parties.reach import Reached, greet, knock
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.ledger.spending import count_entries
from hortus.protocol.plan import Contract
from hortus.runtime.processes import ChildProcess
from hortus.runtime.registry import allow_plug_ins

logger = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
_RETRY_SECONDS = 3.0
_SILENT_SECONDS = 20.0  # a SuperNode takes some to start
_GRACE_SECONDS = 60.0  # what systemd gives before it kills is 90


def run_site(directory: Path, stop: Callable[[], bool]) -> None:
    """Answers the server's questions until it is stopped.

    Args:
        directory: The site's folder.
        stop: Asked every second.

    Raises:
        UsageError: The folder is not complete or correct.
    """
    with sole(SiteFiles(directory)), Site(directory, clock=time.time) as site:
        allow_plug_ins(site.policy.plug_ins)
        expiry = _announce(site)
        warm = WarmWorkbench(site)
        config = site.config
        superlink = config.superlink or site.server.superlink
        aggregation = config.aggregation or site.server.aggregation
        user = RelayUser.find(config.relay_user) if config.relay_user else None
        counts, heartbeat = SiteCounts(), Heartbeat()
        relay = _Relay(ConnectionBook(site.files, superlink, time.time), site.files)
        connect = counting(partial(dialling, aggregation, site.files.tls), counts)
        agent = SiteAgent(site, warm, connect, counts.stopwatch, MachineClock())
        registry = _registry(site, counts, relay)

        def stopped() -> bool:
            heartbeat.beat()
            expiry.look(datetime.now(UTC))
            agent.look_ahead()
            return stop()

        with (
            monitoring(config.monitoring, registry, heartbeat.reason, relay.reason),
            listening(agent, directory / "run", user) as socket,
        ):
            node_config = {"site": site.name, "agent-socket": str(socket)}
            start = partial(start_supernode, site.files, superlink, node_config, user)
            while not stopped():
                if not relay.may_connect():
                    time.sleep(_POLL_SECONDS)
                    continue
                # A SuperNode gives up when the SuperLink does not know it yet.
                with start() as relay.process:
                    relay.watch(stopped)
                    if stop():
                        agent.stop(_GRACE_SECONDS)
                    else:
                        relay.explain_end()
                _pause(_RETRY_SECONDS, stopped)
            agent.stop(_GRACE_SECONDS)  # a session continues when its relay has died


def _announce(site: Site) -> DailyWarning:
    """Says that a site waits for its server, and when its certificates end."""
    waiting = "%s is waiting for the server at %s; Ctrl-C stops it"
    logger.info(waiting, site.name, site.server.superlink)
    started = datetime.now(UTC)
    warn_of_expiry(site.files, started, logger)
    return DailyWarning(site.files, logger, started)


def _registry(site: Site, counts: SiteCounts, relay: "_Relay") -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SiteCollector(counts, partial(count_entries, site.files.ledger), relay.is_up))
    registry.register(CertificateCollector(site.files))
    return registry


class _Relay:
    """The SuperNode of the moment, which another thread may ask about, and its connection.

    Args:
        connection: Where to note the state of the connection.
        files: The site's folder.
    """

    def __init__(self, connection: ConnectionBook, files: SiteFiles) -> None:
        self.process: ChildProcess | None = None
        self._connection = connection
        self._server = connection.now.server
        self._files = files
        self._looked = time.monotonic()

    def is_up(self) -> bool:
        return self.process is not None and self.process.is_running

    def reason(self) -> str | None:
        if self.is_up():
            return None
        why = self._connection.reason()
        return f"the relay to the server is not running: {why or 'it is being restarted'}"

    def may_connect(self) -> bool:
        """Whether something listens there; asking is cheaper than starting a SuperNode in vain."""
        found = knock(self._server)
        if found.problem:
            self._connection.note(Link.DOWN, found)
        self._looked = time.monotonic()
        return not found.problem

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Returns when the SuperNode has ended, or the site is stopped."""
        while self.process is not None and self.process.is_running and not stopped():
            time.sleep(_POLL_SECONDS)
            self.process.keep_log_small()
            self.look()

    def look(self) -> None:
        """Notes what the SuperNode says; if it is silent for long, tries the connection itself."""
        link, found = self._said()
        silent = link is Link.TRYING and not found.problem
        if silent and time.monotonic() - self._looked > _SILENT_SECONDS:
            found, self._looked = self._tried(), time.monotonic()
        self._connection.note(link, found)

    def explain_end(self) -> None:
        """Records why the SuperNode has exited."""
        _, found = self._said()
        tried = self._tried()
        if tried.problem:
            found = tried
        if not found.problem:
            log = supernode_log(self._files)
            found = Reached(
                "Flower's SuperNode has exited", f"It is being restarted. Its log: {log}"
            )
        self._connection.note(Link.DOWN, found)

    def _said(self) -> tuple[Link, Reached]:
        log = end_of(supernode_log(self._files))
        return said_by_supernode(log, self._server, datetime.now(UTC))

    def _tried(self) -> Reached:
        return greet(self._server, self._files.tls, datetime.now(UTC), speaks_http=True)


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not stop():
        time.sleep(_POLL_SECONDS)


class WarmWorkbench:
    """Keeps the model of the last contract in memory: loading it takes seconds.

    Args:
        site: Knows where the base model lies.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._load_lock = threading.Lock()
        self._last: tuple[tuple[str, str], Workbench] | None = None

    def __call__(self, contract: Contract) -> Workbench:
        """Returns the workbench of a contract, of the very files that have its hash.

        Raises:
            Refused: The files are another model, perhaps since they were replaced during loading.
        """
        with self._load_lock:
            digest = self._site.model_digest(contract)
            key = (contract.digest(), digest)
            if self._last is None or self._last[0] != key:
                check_model(contract, digest)
                workbench = Workbench(contract, self._site.model_path(contract))
                check_model(contract, self._site.model_digest(contract))
                self._last = (key, workbench)
            return self._last[1]
