"""What deploy/ says: each unit and service starts what exists, as nobody special, and can write one folder."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry
from typer.main import get_command

from hortus.cli.main import app
from hortus.parties.monitoring import monitoring

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"
CONTAINERS = ROOT / "deploy" / "containers"
UNITS = sorted(SYSTEMD.glob("*.service"))
SERVICES: dict[str, Any] = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())["services"]
INSTALLED = "/opt/hortus/bin/hortus"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd"
)


def unit(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def parses(arguments: list[str]) -> None:
    """Whether the command line takes them; an unknown command or option is an error."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(command.name, list(arguments))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_command_that_exists(path: Path) -> None:
    program, *arguments = shlex.split(unit(path)["Service"]["ExecStart"])
    assert program == INSTALLED
    parses(arguments)


def test_the_page_installs_what_is_there_by_commands_that_exist() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    commands = re.findall(rf"{INSTALLED} (.+)$", page, re.MULTILINE)
    assert commands
    for command in commands:
        parses(shlex.split(command))
    for path in re.findall(r"deploy/[\w./-]*\w", page):
        assert (ROOT / path).exists(), path
    with pytest.raises(click.UsageError):
        parses(["server", "plan.yaml", "--no-such-option"])


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_a_unit(path: Path, tmp_path: Path) -> None:
    here = tmp_path / path.name
    installed = str(Path(sys.executable).with_name("hortus"))
    here.write_text(path.read_text().replace(INSTALLED, installed))
    command = ["systemd-analyze", "verify", "--man=no", str(here)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, told) == (0, [])


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_exposes_little(path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_as_a_user_of_its_own_that_writes_one_folder_at_most(path: Path) -> None:
    service = unit(path)["Service"]
    users = re.findall(r"^u (\S+)", (SYSTEMD / "hortus.sysusers.conf").read_text(), re.MULTILINE)
    assert service["User"] in users
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "strict")
    assert service["CapabilityBoundingSet"] == ""
    assert service["LimitCORE"] == "0", "a core dump would hold records"
    assert "ReadWritePaths" not in service
    writes = service.get("StateDirectory")
    assert writes == (None if path.stem == "hortus-dashboard" else service["User"])
    assert service["RestartPreventExitStatus"] == "2", "what cannot be used is not tried again"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_starts_a_command_that_exists(name: str) -> None:
    parses([str(argument) for argument in SERVICES[name]["command"]])


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_nobody_special(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
    assert writable == ([] if name == "dashboard" else [f"./{name}:/state"])


def test_only_the_servers_two_ports_are_open_to_others() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published == {
        "server": ["9443:9443", "9092:9092"],
        "dashboard": ["127.0.0.1:8300:8300"],
        "site": [],
    }


@pytest.mark.parametrize("name", ["server", "site"])
@pytest.mark.parametrize("reason", [None, "it hangs"])
def test_a_healthcheck_fails_when_the_program_says_so(name: str, reason: str | None) -> None:
    kind, python, *arguments = SERVICES[name]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    page = (ROOT / "docs" / "deploy.md").read_text()
    configured = re.search(rf"127\.0\.0\.1:(\d+)` in `{name}\.yaml`", page)
    assert configured is not None
    assert f":{configured[1]}/" in arguments[-1]
    with monitoring("127.0.0.1:0", CollectorRegistry(), lambda: reason, lambda: None) as port:
        asked = arguments[-1].replace(configured[1], str(port))
        command = [sys.executable, *arguments[:-1], asked]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode == 0) == (reason is None)


def test_the_image_is_built_of_what_is_there_and_runs_as_the_containers_do() -> None:
    text = (CONTAINERS / "Containerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    known = {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    copied = [rest.split() for step, rest in steps if step == "COPY"]
    sources = [source for *some, _ in copied for source in some if not some[0].startswith("--")]
    assert all((ROOT / source).exists() for source in sources)
    last = dict(steps[max(i for i, step in enumerate(steps) if step[0] == "FROM") :])
    assert last["USER"] == SERVICES["server"]["user"]
    (program,) = json.loads(last["ENTRYPOINT"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert program in project["scripts"]
    build = SERVICES["server"]["build"]
    assert (CONTAINERS / build["context"] / build["dockerfile"]).resolve().exists()


def test_a_wheel_has_every_file_that_a_page_needs(tmp_path: Path) -> None:
    left = (".*", "build", "runs", "tests", "docs", "benchmarks", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(*left))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(tmp_path / "source")]
    subprocess.run(command, check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "whole", "zip")
    for folder in (
        "pages",
        "server/web",
        "client/operator",
        "simulation",
        "simulation/attack",
        "cli",
        "protocol/wire",
    ):
        there = {path.name for path in (tmp_path / "whole" / "hortus" / folder).iterdir()}
        for kind in ("html", "css", "js", "svg", "yaml", "md", "proto"):
            assert {path.name for path in (ROOT / folder).glob(f"*.{kind}")} <= there


def test_no_image_is_built_from_a_partys_folder_or_records() -> None:
    """They lie beside compose.yaml, within what an image is built from."""
    lines = (CONTAINERS / "Containerfile.dockerignore").read_text().splitlines()
    ignored = {ROOT / line for line in lines}
    mounted = {volume.partition(":")[0] for one in SERVICES.values() for volume in one["volumes"]}
    assert mounted >= {"./server", "./site", "./records"}
    for folder in mounted:
        assert ignored & {*(CONTAINERS / folder).parents, CONTAINERS / folder}, folder
