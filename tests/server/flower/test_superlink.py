"""Flower's own processes on loopback: one SuperLink, two registered SuperNodes and a stranger."""

import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from helpers.ports import free_port
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

import hortus
from hortus.client.flower.relay_user import RelayUser
from hortus.client.flower.supernode import start_supernode
from hortus.parties.folders import Consortium, ServerConfig, SiteConfig, host_and_port
from hortus.parties.founding import create_consortium
from hortus.parties.identity_change import sole
from hortus.planning.plan_file import load_plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.processes import ChildProcess, flower_environment, installed_script
from hortus.server.flower.guarded_flower import HEADER, SECRET
from hortus.server.flower.guarded_superlink import FleetOnly
from hortus.server.flower.superlink import SuperLink
from hortus.server.operate import run_server

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

SITES = ("ash", "birch")
STRANGER = "cedar"
# What a hostile server would ship: a ClientApp that leaves a mark wherever it is imported.
PROBE = """
import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.query()
def steal(message, context):
    (Path(__file__).parent / "loot").write_text("was run")


@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    request = RecordDict({"request": ConfigRecord({"contract": b"{}"})})
    replies = grid.send_and_receive([Message(request, node, "query") for node in nodes])
    told = sorted(r.error.reason for r in replies if r.has_error())
    Path(context.run_config["report"]).write_text(json.dumps(told))
"""


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)


def has_ended(process: int) -> bool:
    """Whether a process is gone, or only waits to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def make(directory: Path) -> Consortium:
    """Keys and certificates of three sites and a server with a free port."""
    sites = (*SITES, STRANGER)
    return create_consortium(
        directory,
        {site: Path("unused.csv") for site in sites},
        dict.fromkeys(sites, Policy(budget=Budget(epsilon=1.0, delta=1e-5))),
        ServerConfig(aggregation="127.0.0.1:1", superlink=f"127.0.0.1:{free_port()}"),
        datetime.now(UTC),
    )


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    """The folders of three sites and a server."""
    return make(tmp_path / "consortium")


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that Flower's processes can import, with a ServerApp and a ClientApp."""
    directory = tmp_path / "probe"
    directory.mkdir()
    (directory / "hortus_probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return "hortus_probe"


def test_registered_nodes_run_their_own_relay_and_a_stranger_is_refused(
    consortium: Consortium, probe: str, tmp_path: Path
) -> None:
    address = ServerConfig.load(consortium.server.config).superlink
    report, loot = tmp_path / "report.json", tmp_path / "probe" / "loot"
    with ExitStack() as stack:
        superlink = stack.enter_context(
            SuperLink(tmp_path / "flower", consortium.server.tls, address)
        )
        numbers = superlink.register({s: consortium.server.flower_key(s) for s in SITES})
        assert list(numbers.values()) == list(SITES)
        nodes = {
            site: stack.enter_context(
                start_supernode(consortium.site(site), address, {"site": site})
            )
            for site in (*SITES, STRANGER)
        }
        run = superlink.submit(f"{probe}:server", f"{probe}:client", {"report": str(report)})
        wait_for(report.exists, 75)
        wait_for(lambda: not superlink.is_running(run), 15)
        assert not nodes[STRANGER].is_running
        assert all(nodes[site].is_running for site in SITES)
    log = consortium.site(STRANGER).directory / "flower" / "supernode.log"
    assert "Failed to activate SuperNode" in log.read_text()
    # No agent runs here, so a relay can only say that it finds none. The server's app never ran.
    assert json.loads(report.read_text()) == ["<class 'KeyError'>:<''agent-socket''>"] * 2
    assert not loot.exists()


# What a hostile server would ship if a site ran it: it opens what it can, and tells the server.
THIEF = """
import json
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


@client.query()
def steal(message, context):
    found = {"uid": str(os.geteuid())}
    for path in context.node_config["wanted"].split(os.pathsep):
        try:
            found[path] = "read" if Path(path).read_bytes() else "empty"
        except OSError as error:
            found[path] = type(error).__name__
    answer = ConfigRecord({"site": context.node_config["site"], "found": json.dumps(found)})
    return Message(RecordDict({"answer": answer}), reply_to=message)


@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes])
    answers = [r.content.config_records["answer"] for r in replies if not r.has_error()]
    told = {a["site"]: json.loads(a["found"]) for a in answers}
    Path(context.run_config["report"]).write_text(json.dumps(told))
"""


def let_nobody_run_python(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Starts Flower by a Python of this version that every user may run: root's own may be hidden."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            subprocess.run([python, "-c", ""], user="nobody", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        break
    else:
        pytest.skip(f"nobody may run no {version} of this machine")
    for name in ("flower-supernode", "flower-superexec", "flwr-clientapp"):
        program = directory / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {python} {installed_script(name)} "$@"\n')
        program.chmod(0o755)
    stock = {n: [str(directory / "programs" / n)] for n in ("flower-superexec", "flwr-clientapp")}
    patch.setattr("hortus.client.flower.supernode._PROGRAMS", stock)
    patch.setattr(
        "hortus.client.flower.supernode.installed_script", lambda n: str(directory / "programs" / n)
    )
    own = SimpleNamespace(executable=python, prefix=python)
    patch.setattr("hortus.client.flower.relay_user.sys", own)
    libraries = [
        str(directory / "app"),
        str(Path(hortus.__file__).parents[1]),
        sysconfig.get_path("purelib"),
    ]
    patch.setenv("PYTHONPATH", os.pathsep.join(libraries))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run programs as another user")
def test_a_hostile_app_reads_no_key_where_flower_runs_as_another_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The site's pin is taken away, so that the server's app does run: as nobody, and as the agent."""
    with ExitStack() as stack:
        # Not below pytest's own folder, which others may not enter.
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="hortus-")))
        directory.chmod(0o711)
        (directory / "app").mkdir()
        (directory / "app" / "hortus_thief.py").write_text(THIEF)
        let_nobody_run_python(directory, monkeypatch)
        consortium = make(directory / "consortium")
        address = ServerConfig.load(consortium.server.config).superlink
        superlink = stack.enter_context(
            SuperLink(directory / "flower", consortium.server.tls, address)
        )
        users = {"ash": RelayUser.find("nobody"), "birch": None}
        wanted = {}
        for site, user in users.items():
            superlink.register({site: consortium.server.flower_key(site)})
            files = consortium.site(site)
            files.ledger.touch(mode=0o600)
            files.ledger.write_text("entries")
            records = files.directory / SiteConfig.load(files.config).data
            records.write_text("text,label")
            records.chmod(0o600)
            secrets = (files.identity, files.dataset_key, files.flower_key, files.tls.key)
            wanted[site] = [str(path) for path in (*secrets, files.ledger, records)]
            config = {"site": site, "wanted": os.pathsep.join(wanted[site])}
            stack.enter_context(start_supernode(files, address, config, user))
        report = directory / "report.json"
        superlink.submit("hortus_thief:server", "hortus_thief:client", {"report": str(report)})
        wait_for(report.exists, 75)
        found = json.loads(report.read_text())
    assert found["birch"].pop("uid") == "0"
    assert set(found["birch"].values()) == {"read"}, "under the agent's user it reads everything"
    assert found["ash"].pop("uid") == str(pwd.getpwnam("nobody").pw_uid)
    assert found["ash"] == dict.fromkeys(wanted["ash"], "PermissionError")
    assert len(wanted["ash"]) == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_relay_user_cannot_have_another_file_given_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left running puts a link in the place of its copy, in its own folder."""
    secret, copy, source = (tmp_path / name for name in ("secret", "copy", "source"))
    secret.write_text("the site's")
    source.write_text("the relay's")
    user = RelayUser.find("nobody")

    def swap(path: Path) -> bytes:
        copy.unlink()
        copy.symlink_to(secret)
        with path.open("rb") as file:
            return file.read()

    monkeypatch.setattr(Path, "read_bytes", swap)
    user.take(copy, source)
    assert secret.stat().st_uid == 0
    monkeypatch.undo()
    assert user.take(copy, source).stat().st_uid == user.uid
    assert copy.read_text() == "the relay's"


@pytest.mark.parametrize(
    ("name", "problem"), [("no-such-user", "has no user"), ("root", "can read all that the agent")]
)
def test_a_relay_user_that_cannot_be_one_is_refused(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=rf"^site.yaml: relay_user: .*{problem}"):
        RelayUser.find(name)


@pytest.mark.parametrize(
    ("path", "host", "secret", "status"),
    [
        ("/v1/fleet/pull-messages", "10.1.2.3", None, 200),
        ("/v1/control/start-run", "10.1.2.3", None, 403),
        ("/v1/control/start-run", "10.1.2.3", "of this run", 403),
        ("/v1/runtime/acquire-task", "10.1.2.3", None, 403),
        ("/docs", "fd00::7", None, 403),
        ("/v1/fleet", "10.1.2.3", None, 403),
        ("/v1/control/start-run", "127.0.0.1", None, 403),
        ("/v1/control/start-run", "127.0.0.1", "", 403),
        ("/v1/control/start-run", "127.0.0.1", "of this ru", 403),
        ("/v1/control/start-run", "127.0.0.1", "of this run\xe9", 403),
        ("/v1/runtime/acquire-task", "::1", None, 403),
        ("/v1/control/start-run", "127.0.0.1", "of this run", 200),
        ("/v1/runtime/acquire-task", "::1", "of this run", 200),
    ],
)
def test_strangers_reach_the_fleet_api_alone(
    path: str, host: str, secret: str | None, status: int
) -> None:
    async def everything(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("answered")(scope, receive, send)

    client = TestClient(FleetOnly(everything, "of this run"), client=(host, 50000))
    shown = {} if secret is None else {HEADER: secret.encode("latin-1")}
    assert client.get(path, headers=shown).status_code == status


@contextmanager
def forwarding(address: str) -> Iterator[str]:
    """A TCP proxy on loopback, as `ssh -R` makes one: whoever dials it is a caller from loopback."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(host_and_port(address))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def test_a_stranger_on_loopback_cannot_submit_an_app(
    consortium: Consortium, probe: str, tmp_path: Path
) -> None:
    """Flower's own command line and a plain client, both through a proxy on the server's machine."""
    address = ServerConfig.load(consortium.server.config).superlink
    authority = consortium.server.tls.authority
    with SuperLink(tmp_path / "flower", consortium.server.tls, address) as superlink:
        superlink.register({"ash": consortium.server.flower_key("ash")})
        app = tmp_path / "stolen"
        shutil.copytree(tmp_path / "flower" / "home", tmp_path / "home")
        app.mkdir()
        (app / "pyproject.toml").write_text(
            '[project]\nname = "evil"\nversion = "1.0.0"\ndescription = "x"\n'
            'license = "Apache-2.0"\ndependencies = ["flwr==1.41.0"]\n\n'
            '[tool.flwr.app]\npublisher = "evil"\n\n[tool.flwr.app.components]\n'
            f'serverapp = "{probe}:server"\nclientapp = "{probe}:client"\n'
        )
        with forwarding(address) as near:
            config = tmp_path / "home" / "config.toml"
            config.write_text(config.read_text().replace(address, near))
            stock = [installed_script("flwr"), "run", str(app), "hortus", "--format", "json"]
            environment = flower_environment(tmp_path / "home")
            told = subprocess.run(
                stock, env=environment, capture_output=True, text=True, timeout=90, check=False
            )
            assert "run-id" not in told.stdout
            assert "403" in told.stdout + told.stderr
            with httpx.Client(verify=ssl.create_default_context(cafile=str(authority))) as client:
                for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/"):
                    for headers in ({}, {HEADER: "guess"}):
                        answer = client.post(f"https://{near}{path}", headers=headers)
                        assert answer.status_code == 403
                assert client.post(f"https://{near}/v1/fleet/none").status_code != 403
        assert superlink.is_up
        report = tmp_path / "report.json"
        run = superlink.submit(f"{probe}:server", f"{probe}:client", {"report": str(report)})
        assert superlink.is_running(run)
    written = b"".join(
        path.read_bytes() for path in (tmp_path / "flower").rglob("*") if path.is_file()
    )
    assert superlink._environment[SECRET].encode() not in written


@pytest.mark.parametrize("count", [0, 1, 40])
def test_as_many_sites_as_there_are_have_the_time_that_each_needs(
    count: int, consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted: list[float] = []

    def answered(command: list[str], _: object, seconds: float) -> str:
        granted.append(seconds)
        return "\n".join(json.dumps({"node-id": n}) for n in range(command.count("register")))

    monkeypatch.setattr("hortus.server.flower.superlink.run_to_end", answered)
    superlink = SuperLink(tmp_path / "flower", consortium.server.tls, "127.0.0.1:9092")
    keys = {f"site-{number}": tmp_path / f"{number}.pub" for number in range(count)}
    assert superlink.register(keys) == dict(enumerate(keys))
    assert granted == [90.0 * count][: min(count, 1)]


def test_a_taken_port_is_named(consortium: Consortium, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        superlink = SuperLink(tmp_path / "flower", consortium.server.tls, address)
        with pytest.raises(HortusError, match="cannot listen on port"), superlink:
            pass


def test_a_superlink_that_is_interrupted_while_it_starts_is_ended(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C leaves the block before it was entered, so nothing else would end it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ChildProcess, "wait_until", interrupted)
    address = ServerConfig.load(consortium.server.config).superlink
    superlink = SuperLink(tmp_path / "flower", consortium.server.tls, address)
    with pytest.raises(KeyboardInterrupt), superlink:
        pass
    assert not superlink.is_up


def test_a_second_server_leaves_the_first_ones_run_alone(
    consortium: Consortium, write_plan: Any, tmp_path: Path
) -> None:
    """It is refused before it tidies up what the first has not finished writing."""
    path, out = write_plan(), tmp_path / "run"
    half = out / "checkpoints" / ".round-00002.safetensors.0123456789abcdef"
    half.parent.mkdir(parents=True)
    half.touch()
    with sole(consortium.server), pytest.raises(HortusError, match="a server of this folder"):
        run_server(load_plan(path), path, consortium.server, out, *[lambda _: None] * 2)
    assert half.exists()
    assert not (out / "contract.json").exists()


def test_a_superlink_that_dies_is_explained_by_its_log(
    consortium: Consortium, tmp_path: Path
) -> None:
    consortium.server.tls.key.write_text("no key")
    superlink = SuperLink(
        tmp_path / "flower",
        consortium.server.tls,
        ServerConfig.load(consortium.server.config).superlink,
    )
    with pytest.raises(HortusError, match="ended with exit code"), superlink:
        pass


# A program that starts another in a session of its own, as the SuperLink does, and waits.
STARTER = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""
# A parent that watches a child, and is killed before it can stop it.
PARENT = """
import os, pathlib, sys, time
from hortus.runtime.processes import ChildProcess, flower_environment, installed_script
child = ChildProcess(["sleep", "600"], dict(os.environ), pathlib.Path(sys.argv[1] + ".log"))
pathlib.Path(sys.argv[1]).write_text(str(child._process.pid))
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="process handles are Linux's")
@pytest.mark.parametrize("is_killed", [False, True])
def test_stopping_ends_what_left_the_process_group(tmp_path: Path, is_killed: bool) -> None:
    number = tmp_path / "number"
    command = [sys.executable, "-c", STARTER, str(number)]
    with ChildProcess(command, dict(os.environ), tmp_path / "log") as child:
        child.wait_until(lambda: number.exists() and bool(number.read_text()), 20)
        grandchild = int(number.read_text())
        assert not has_ended(grandchild)
        if is_killed:
            os.kill(child._process.pid, signal.SIGKILL)
            wait_for(lambda: not child.is_running, 5)
            assert not has_ended(grandchild)
    assert has_ended(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_log_that_others_fill_stays_small(tmp_path: Path) -> None:
    log = tmp_path / "program.log"
    says = "import time; print('x' * 11 * 2**20, flush=True); time.sleep(1); print('end'); exit(3)"
    with ChildProcess([sys.executable, "-c", says], dict(os.environ), log) as child:
        deadline = time.monotonic() + 20
        while child.is_running and time.monotonic() < deadline:
            child.keep_log_small()
            time.sleep(0.05)
        with pytest.raises(HortusError, match="exit code 3") as error:
            child.check()
    assert error.value.remedy == "end"
    assert log.read_text() == "end\n"
    assert log.with_name("program.log.1").stat().st_size == 10 * 2**20


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    number = tmp_path / "number"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(number)]) as parent:
        wait_for(lambda: number.exists() and bool(number.read_text()), 20)
        child = int(number.read_text())
        assert not has_ended(child)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: has_ended(child), 5)
