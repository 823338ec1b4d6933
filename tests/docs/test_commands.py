"""What the documentation shows is what works."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.made_runs import make_contract, make_plan, make_store
from typer.main import get_command

from hortus.cli.main import app
from hortus.parties.fingerprint import roster_words
from hortus.protocol.identity import Roster
from tests.conftest import write_records

pytestmark = [pytest.mark.processes, pytest.mark.minutes, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = set(get_command(app).commands)  # type: ignore[attr-defined]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_named_is_one(page: Path) -> None:
    named = re.findall(r"(?:`|^\s*)hortus (?:--debug )?([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def run_page(page: Path, directory: Path) -> str:
    """Runs all commands of a page, from top to bottom; returns what they printed."""
    return run_commands("\n".join(blocks(page, "bash")), directory)


def run_commands(commands: str, directory: Path) -> str:
    """Runs commands; returns what they printed.

    In a process group of their own, and into a file: what they leave in the background when one of them
    fails is ended, and keeps nobody waiting for the end of a pipe.
    """
    script = f"set -e\n{commands}"
    environment = os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    printed = directory / "printed.txt"
    with printed.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=directory,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = shell.wait(600)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert code == 0, printed.read_text()[-6000:]
    return printed.read_text()


def test_the_quickstart_works_as_it_stands(tmp_path: Path) -> None:
    page = ROOT / "docs" / "quickstart.md"
    assert run_page(page, tmp_path).count("\nHOLDS: ") == 3
    (python,) = blocks(page, "python")
    subprocess.run([sys.executable, "-c", python], cwd=tmp_path, check=True, timeout=120)


def test_operating_a_consortium_works_as_it_stands(tmp_path: Path) -> None:
    for site in ("north", "south", "harbor"):
        write_records(tmp_path / f"{site}.csv", 60)
    run_page(ROOT / "docs" / "operations.md", tmp_path)
    pinned = [Roster.load(tmp_path / name / "roster.yaml") for name in ("north", "south", "server")]
    assert len({roster_words(roster) for roster in pinned}) == 1


def test_checking_records_works_as_it_stands(tmp_path: Path) -> None:
    printed = run_page(ROOT / "docs" / "data.md", tmp_path)
    for said in ("one patient_id: 100 of them", "not masked", "masked before", "held-out.jsonl: "):
        assert said in printed


@pytest.mark.timeout(120)
def test_the_live_view_starts_as_its_page_says(tmp_path: Path) -> None:
    make_store(tmp_path / "consortium" / "runs" / "example", make_contract(make_plan()), 1)
    (command,) = blocks(ROOT / "docs" / "dashboard.md", "bash")
    program = [str(Path(sys.executable).with_name("hortus")), *command.split()[1:]]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().endswith("at http://127.0.0.1:8300/")
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
