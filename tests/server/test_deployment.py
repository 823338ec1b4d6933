"""Real processes on loopback: SuperLink, SuperNodes, server and three clients, as operators run them."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load_file

from hortus.protocol.consortium import Consortium, ServerConfig, SiteConfig
from hortus.protocol.plan_file import load_plan
from hortus.protocol.policy import Policy
from hortus.simulation.simulate import simulate

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

HORTUS = str(Path(sys.executable).with_name("hortus"))
SITES = ("ash", "birch", "cedar")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hortus(*arguments: str) -> str:
    done = subprocess.run(
        [HORTUS, *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def clients(consortium: Consortium) -> Iterator[None]:
    started = []
    for site in consortium.sites:
        with (consortium.directory / f"{site}.log").open("w") as log:
            command = [HORTUS, "client", str(consortium.site(site).directory)]
            started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in started] == [0, 0, 0]


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


def test_a_deployed_run_gives_the_bits_of_the_simulated_one(
    write_plan: Any, tmp_path: Path
) -> None:
    path = write_plan(cohort={"minimum": 3})
    simulated = simulate(load_plan(path), path.parent, tmp_path / "simulated", lambda *_: None)
    consortium = make_consortium(path, tmp_path / "consortium")
    allow_repeatable_noise(consortium)
    for site in SITES:
        hortus("approve", str(consortium.site(site).directory), str(path))
    with clients(consortium):
        hortus(
            "server",
            str(path),
            "--home",
            str(consortium.server.directory),
            "--out",
            str(tmp_path / "run"),
        )
    deployed = load_file(tmp_path / "run" / "checkpoints" / "round-00001.safetensors")["adapter"]
    assert deployed.tobytes() == simulated.adapter.tobytes()
    assert np.isfinite(deployed).all()
    saved = [
        tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("run", "simulated")
    ]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    for site in SITES:
        hortus("audit", str(consortium.site(site).directory))
    report = (tmp_path / "run" / "report.html").read_text()
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


def test_an_interrupted_server_ends_all_it_started_and_goes_on_to_the_same_bits(
    write_plan: Any, tmp_path: Path
) -> None:
    path = write_plan(cohort={"minimum": 3}, training={"rounds": 50}, privacy={"epsilon": 60.0})
    simulated = simulate(load_plan(path), path.parent, tmp_path / "simulated", lambda *_: None)
    consortium = make_consortium(path, tmp_path / "consortium", epsilon=100)
    server_address, site_address = let_watch(consortium)
    allow_repeatable_noise(consortium)
    for site in SITES:
        hortus("approve", str(consortium.site(site).directory), str(path))
    home, out = consortium.server.directory, tmp_path / "run"
    arguments = ["server", str(path), "--home", str(home), "--out", str(out)]
    with clients(consortium):
        with (tmp_path / "server.log").open("w") as log:
            first = subprocess.Popen([HORTUS, *arguments], stdout=log, stderr=log)
        while not (out / "metrics.jsonl").exists():
            assert first.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.05)
        assert told(server_address, "hortus_server_rounds_total") >= 1
        assert told(site_address, "hortus_site_uploads_total") >= 1
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130
        config = yaml.safe_load(consortium.server.config.read_text())
        assert not any(is_served(address) for address in config.values())
        interrupted = (out / "metrics.jsonl").read_text().count("\n")
        hortus(*arguments)
    assert 1 <= interrupted < 50
    assert "50" in hortus("audit", str(out))
    deployed = load_file(out / "checkpoints" / "round-00049.safetensors")["adapter"]
    assert deployed.tobytes() == simulated.adapter.tobytes()
