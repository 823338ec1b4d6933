"""Real processes on loopback: SuperLink, SuperNodes, server and three clients, as operators run them."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from helpers.ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load_file

from hortus.parties.folders import Consortium, ServerConfig, SiteConfig
from hortus.planning.plan_file import load_plan
from hortus.protocol.policy import Policy
from hortus.runtime.processes import dying_with_parent
from hortus.simulation.simulate import SimulatedRun, simulate

pytestmark = [pytest.mark.processes, pytest.mark.minutes, pytest.mark.timeout(900)]

HORTUS = str(Path(sys.executable).with_name("hortus"))
SITES = ("ash", "birch", "cedar")
GRACE_SECONDS = 90  # what systemd gives
ENDED = "ended with exit code -9 and is being restarted"


def start(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command that goes on; should the tests themselves be killed, it is told to end."""
    with log.open("a") as output:
        return subprocess.Popen(
            [HORTUS, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509
        )


def hortus(*arguments: str) -> str:
    done = subprocess.run(
        [HORTUS, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=dying_with_parent(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_client(consortium: Consortium, site: str) -> subprocess.Popen[bytes]:
    directory = consortium.site(site).directory
    return start(consortium.directory / f"{site}.log", "client", str(directory))


@contextmanager
def clients(consortium: Consortium) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started = {site: start_client(consortium, site) for site in consortium.sites}
    try:
        yield started
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        assert [process.wait(GRACE_SECONDS) for process in started.values()] == [0, 0, 0]


def allow_repeatable_noise(consortium: Consortium) -> None:
    for site in consortium.sites:
        files = consortium.site(site)
        policy = Policy.load(files.policy)
        policy.model_copy(update={"unsafe_seeded_noise": True}).save(files.policy)


def make_consortium(plan: Path, directory: Path, epsilon: int = 50) -> Consortium:
    """`hortus init trial` with the plan's sites, and a budget for it."""
    data = [f"--site={site}={plan.parent / site}.csv" for site in SITES]
    ports = [f"--{name}=127.0.0.1:{free_port()}" for name in ("aggregation", "superlink")]
    hortus("init", "trial", str(directory), *data, *ports, f"--epsilon={epsilon}", "--delta=0.001")
    return Consortium(directory)


def check_what_was_said(consortium: Consortium, out: Path) -> None:
    """Who is connected and let in stands in the logs, and who took part in the report."""
    spoken = (out / "server.log").read_text()
    for line in (
        *(f"{site} is connected" for site in SITES),
        *(f"{site} takes part" for site in SITES),
        "starts Flower's SuperLink",
        "lets 3 sites in",
    ):
        assert line in spoken
    agent = (consortium.site(SITES[0]).directory / "logs" / "agent.log").read_text()
    assert "is connected to the server at" in agent
    assert "fork_posix" not in agent
    report = (out / "report.html").read_text()
    assert all(site in report for site in SITES)
    assert "Nobody has to believe it" in report


def let_watch(consortium: Consortium) -> tuple[str, str]:
    """Gives the server and one site an address for health and metrics."""
    addresses = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    for path, kind, address in zip(
        (consortium.server.config, consortium.site(SITES[0]).config),
        (ServerConfig, SiteConfig),
        addresses,
        strict=True,
    ):
        kind.load(path).model_copy(update={"monitoring": address}).save(path)
    return addresses


def told(address: str, name: str) -> float:
    """A metric, of a process that is healthy and ready."""
    for path in ("healthz", "readyz"):
        assert httpx.get(f"http://{address}/{path}").status_code == 200
    families = text_string_to_metric_families(httpx.get(f"http://{address}/metrics").text)
    return next(s.value for family in families for s in family.samples if s.name == name)


def is_served(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def running(directory: Path, program: str = "") -> list[int]:
    """The processes of a party: those with its folder in their command or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            told = command + (process / "environ").read_bytes()
            if str(directory).encode() in told and program.encode() in command:
                found.append(int(process.name))
    return found


def kill(directory: Path, program: str) -> None:
    (process,) = running(directory, program)
    os.kill(process, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], server: subprocess.Popen[bytes], log: Path) -> None:
    """Waits for what a server that goes on is to bring about."""
    deadline = time.monotonic() + 240
    while not condition():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@contextmanager
def held(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stops a site's program: no round ends without it, however fast the machine."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def unpaid(consortium: Consortium, site: str, run: Path) -> set[tuple[str, int, int]]:
    """The attempts of a run that a site has uploaded for and that its ledger does not know."""
    with closing(sqlite3.connect(run / "run.sqlite")) as database:
        rows = "SELECT session, step, attempt, heard FROM attempts"
        attempts = database.execute(rows).fetchall()
    with closing(sqlite3.connect(consortium.site(site).ledger)) as ledger:
        uses = ledger.execute("SELECT session, step, attempt FROM uses").fetchall()
    return {tuple(key) for *key, heard in attempts if f'"{site}"' in heard} - set(uses)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_deployed_run_gives_the_simulated_bits_whatever_is_stopped_or_killed(
    write_plan: Any, tmp_path: Path
) -> None:
    rounds = 15
    path = write_plan(
        cohort={"minimum": 3, "max_colluding": 1},
        training={"rounds": rounds, "steps_per_round": 4},
        privacy={"epsilon": 60.0},
    )
    simulated = simulate(load_plan(path), path, tmp_path / "simulated", lambda *_: None)
    consortium, (server_address, site_address) = approved(path, tmp_path / "consortium")
    ash, birch = (consortium.site(site).directory for site in SITES[:2])
    out, log = tmp_path / "run", tmp_path / "server.log"
    home = str(consortium.server.directory)
    arguments = ("server", str(path), "--home", home, "--out", str(out))

    def finished() -> int:
        metrics = out / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    def go_on(server: subprocess.Popen[bytes]) -> None:
        enough = finished() + 2  # a round that was not under way before
        wait_for(lambda: finished() >= enough, server, log)

    with clients(consortium) as started:
        server = start(log, *arguments)
        go_on(server)
        assert told(server_address, "hortus_server_rounds_total") >= 1
        assert told(site_address, "hortus_site_uploads_total") >= 1
        with held(started["cedar"]):
            stop_server(server, consortium, out)

        server = start(log, *arguments)
        go_on(server)
        kill(birch, "flower-supernode")
        go_on(server)
        assert finished() < rounds - 6, "there must be something left to disturb"

        with held(started["cedar"]):
            kill(out, "guarded_superlink")
            wait_for(lambda: ENDED in log.read_text(), server, log)
        go_on(server)

        stop_without_relay(started["ash"], ash)
        assert finished() < rounds
        started["ash"] = start_client(consortium, "ash")
        assert server.wait(300) == 0, log.read_text()
    check_accounts(consortium, out)
    check_what_was_said(consortium, out)
    check_bits(out, simulated, rounds)


def approved(path: Path, folder: Path) -> tuple[Consortium, tuple[str, str]]:
    """A consortium that adds repeatable noise and has approved a plan, and where it may be watched."""
    consortium = make_consortium(path, folder, epsilon=200)
    addresses = let_watch(consortium)
    allow_repeatable_noise(consortium)
    for site in SITES:
        hortus("approve", str(consortium.site(site).directory), str(path))
    return consortium, addresses


def stop_server(server: subprocess.Popen[bytes], consortium: Consortium, out: Path) -> None:
    server.send_signal(signal.SIGTERM)
    assert server.wait(GRACE_SECONDS) == 130
    assert not running(out), "the server leaves nothing behind"
    config = yaml.safe_load(consortium.server.config.read_text())
    addresses = [one for one in config.values() if isinstance(one, str)]
    assert not any(map(is_served, addresses))


def stop_without_relay(site: subprocess.Popen[bytes], folder: Path) -> None:
    kill(folder, "flower-supernode")
    site.send_signal(signal.SIGTERM)
    assert site.wait(GRACE_SECONDS) == 0
    assert not running(folder), "a site leaves nothing behind"


def check_accounts(consortium: Consortium, out: Path) -> None:
    """Every vector was paid for, and an audit says so."""
    folders = [consortium.site(site).directory for site in SITES]
    assert not any(unpaid(consortium, site, out) for site in SITES)
    assert "HOLDS: " in hortus("audit", str(out), *map(str, folders))


def check_bits(out: Path, simulated: SimulatedRun, rounds: int) -> None:
    """What was trained and saved in a folder has the bits of the simulation."""
    deployed = load_file(out / "checkpoints" / f"round-{rounds:05d}.safetensors")["adapter"]
    assert np.isfinite(deployed).all()
    assert deployed.tobytes() == simulated.adapter.tobytes()
    saved = [run / "adapter" / "adapter_model.safetensors" for run in (out, simulated.directory)]
    assert saved[0].read_bytes() == saved[1].read_bytes()
