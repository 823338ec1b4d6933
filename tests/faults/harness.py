"""Real processes that are killed at a named point: three site agents, and the server's round loop.

Agents listen on their sockets, the server serves gRPC with mutual TLS; between them the relay's app
runs on threads of the server's process, where a deployment has Flower. A supervisor starts again
whatever was killed, as systemd would.
"""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from hortus.client.agent import SiteAgent
from hortus.client.agent_service import listening
from hortus.client.channel import dialling
from hortus.client.flower.relay import _over_socket, relay_app
from hortus.client.operate import WarmWorkbench
from hortus.client.pace import RehearsalClock
from hortus.client.site.folder import Site
from hortus.client.trainer import untimed
from hortus.learning.warm_model import WarmModel
from hortus.parties.folders import Consortium, ServerConfig
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Contract
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import HortusError
from hortus.runtime.faults import SWITCH
from hortus.runtime.names import SERVER
from hortus.runtime.processes import tail
from hortus.server.evaluation import Evaluator
from hortus.server.grid_sites import GridSites
from hortus.server.round_loop import RoundLoop
from hortus.server.run.attendance import AttendanceBook
from hortus.server.run.store import RunStore
from hortus.server.sums.aggregator import Aggregator, StepSum
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving
from hortus.simulation.local_grid import LocalGrid

_FAILED = 3
_POLL_SECONDS = 0.02
_PRELOADED = [
    "hortus.client.agent_service",
    "hortus.client.operate",
    "hortus.server.grid_sites",
    "hortus.server.round_loop",
    "hortus.server.sums.service",
    "hortus.simulation.local_grid",
    "transformers.models.bert.modeling_bert",
]


class Blast(Enum):
    """What dies with the process that reaches a point."""

    PROCESS = "process"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Deployment:
    """Folders of one run; the contract's model lies where it says.

    Attributes:
        consortium: The parties' folders.
        contract: What is trained.
        out: The run's folder, the journal, and what the server was seen to get.
    """

    consortium: Consortium
    contract: Contract
    out: Path

    @property
    def journal(self) -> Path:
        """The file of HORTUS_UNSAFE_FAULTS."""
        return self.out / "journal"

    @property
    def uploads(self) -> Path:
        """One line for each upload that the server began to take."""
        return self.out / "uploads"

    @property
    def log(self) -> Path:
        """What the processes print."""
        return self.out / "log"

    @property
    def sums(self) -> Path:
        """One file for each sum that the server has made."""
        return self.out / "sums"

    def reached(self) -> list[str]:
        """The points reached so far, in order."""
        return [line.split()[0] for line in self.journal.read_text().splitlines()[1:]]


def run(deployment: Deployment, order: str, blast: Blast, seconds: float) -> int:
    """Runs until the server is done, whatever dies on the way; returns how often something did.

    Args:
        deployment: Where.
        order: First line of the journal.
        blast: What dies with a process that is killed.
        seconds: After so long it counts as stuck.
    """
    deployment.sums.mkdir(parents=True)
    deployment.journal.write_text(f"{order}\n")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    # Short paths: a socket's has 107 bytes at most, and a test's folder may be deeper.
    with TemporaryDirectory(prefix="hortus-") as sockets:
        starts: dict[str, Callable[[], Any]] = {
            site: partial(_start, context, _run_site, deployment, site, Path(sockets) / site)
            for site in deployment.consortium.sites
        }
        starts[SERVER] = partial(_start, context, _run_server, deployment, Path(sockets))
        return _supervise(starts, blast, time.monotonic() + seconds, deployment.log)


def _supervise(
    starts: Mapping[str, Callable[[], Any]], blast: Blast, deadline: float, log: Path
) -> int:
    running, killed = {name: start() for name, start in starts.items()}, 0
    try:
        while running[SERVER].exitcode != 0:
            assert time.monotonic() < deadline, f"stuck; the log ends with\n{tail(log)}"
            ended = [name for name, process in running.items() if process.exitcode is not None]
            for name in ended:
                code = running[name].exitcode
                if (name, code) == (SERVER, 0):
                    break
                assert code in (-signal.SIGKILL, _FAILED), f"{name} ended with {code}"
                if code == -signal.SIGKILL:
                    killed += 1
                    if blast is Blast.MACHINE:
                        _kill(running.values())
                        running = {name: start() for name, start in starts.items()}
                        break
                running[name] = starts[name]()
            time.sleep(_POLL_SECONDS)
    finally:
        _kill(running.values())
    return killed


def _start(context: Any, target: Callable[..., None], *arguments: Any) -> Any:
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _kill(processes: Any) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _prepare(deployment: Deployment) -> None:
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    os.environ[SWITCH] = str(deployment.journal)
    torch.set_num_threads(1)
    log = os.open(deployment.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())


def _end_with_the_tests() -> None:
    """Leaves nothing behind when the tests are killed; a fork server alone would wait for this."""
    tests = multiprocessing.parent_process()
    assert tests is not None
    tests.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _run_site(deployment: Deployment, name: str, socket: Path) -> None:
    _prepare(deployment)
    files = deployment.consortium.site(name)
    with Site(files.directory, clock=time.time) as site:
        connect = partial(dialling, site.server.aggregation, files.tls)
        agent = SiteAgent(site, WarmWorkbench(site), connect, untimed, RehearsalClock())
        with listening(agent, socket):
            signal.pause()


def _run_server(deployment: Deployment, sockets: Path) -> None:
    _prepare(deployment)
    files, contract = deployment.consortium.server, deployment.contract
    _record(deployment)
    try:
        with ExitStack() as stack:
            store = RunStore(deployment.out / "run", contract)
            hub = Hub(Notary.open(files, time.time))
            address = ServerConfig.load(files.config).aggregation
            roster = Roster.load(files.roster)
            stack.enter_context(serving(hub, files.tls, address, len(roster.sites)))
            grid = RelayGrid({site: relay(sockets / site / "agent.sock") for site in roster.sites})
            stack.callback(grid.close)
            attendance = AttendanceBook(store.directory, roster.sites, time.time, grid.names)
            reached = GridSites(
                grid=grid,
                identity=Identity.load(files.identity, SERVER),
                roster=lambda: roster,
                contract=contract,
                store=store,
                hub=hub,
                attendance=attendance,
            )
            evaluator = Evaluator(WarmModel(contract, Path(contract.model)), None)
            RoundLoop(reached, contract, store, evaluator, attendance, lambda _: None).run()
    except HortusError:
        time.sleep(0.2)
        os._exit(_FAILED)
    os._exit(0)


def relay(path: Path) -> ClientApp:
    context: Any = SimpleNamespace(node_config={"agent-socket": str(path)})
    return relay_app(lambda _: _over_socket(context))


class RelayGrid(LocalGrid):
    """Answers for a node that fails as Flower does: with an error."""

    def _deliver(self, message: Message) -> Message:
        try:
            return super()._deliver(message)
        except Exception as error:  # noqa: BLE001 - whatever a ClientApp raises
            return Message(Error(1, str(error)), reply_to=message)


def _record(deployment: Deployment) -> None:
    """Notes what the server gets, beside the code that gets it."""
    upload, add_up = Aggregator.upload, Aggregator.sum

    def noted_upload(self: Aggregator, site: str, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        return upload(self, site, _noted(deployment, site, parts))

    def noted_sum(self: Aggregator, step: int, adapter: np.ndarray, *rest: Any) -> StepSum:
        result = add_up(self, step, adapter, *rest)
        number = len(list(deployment.sums.iterdir()))
        path = deployment.sums / f"{number:05d}.npz"
        unfinished = deployment.out / path.name
        np.savez(
            unfinished,
            adapter=adapter,
            total=result.total,
            sites=list(result.sites),
            attempt=result.attempts - 1,
            step=self.descriptor.first_round + step,
            cohort=len(self.descriptor.cohort),
        )
        unfinished.rename(path)  # another thread's kill may come in the middle
        return result

    Aggregator.upload = noted_upload  # type: ignore[method-assign]
    Aggregator.sum = noted_sum  # type: ignore[method-assign]


def _noted(
    deployment: Deployment, site: str, parts: Iterator[wire.UploadPart]
) -> Iterator[wire.UploadPart]:
    header = next(parts)
    yield header
    for part in parts:
        what = header.header
        digest = hashlib.sha256(part.chunk.words).hexdigest()
        line = f"{site} {what.session} {what.step} {what.attempt} {part.chunk.sequence} {digest}\n"
        with deployment.uploads.open("a") as file:
            file.write(line)
        yield part
