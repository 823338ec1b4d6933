"""A command that needs neither torch nor Flower starts without them: they take seconds to load."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "flwr", "transformers", "matplotlib", "opacus", "dp_accounting", "scipy")
PROGRAM = f"""
import json, sys
from hortus.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
heavy = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps([code, heavy]), file=sys.stderr)
"""


def start(*command: str) -> str:
    """Runs a command; returns its exit code and the heavy libraries that it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["plan", "budget", "--help"],
        ["audit", "--help"],
        ["init", "--help"],
        ["roster", "add", "--help"],
        ["client", "--help"],
    ],
)
def test_help_loads_no_heavy_library(command: list[str]) -> None:
    assert start(*command) == "[0, []]"


def test_keys_and_rosters_need_no_heavy_library(tmp_path: Path) -> None:
    server = str(tmp_path / "server")
    assert start("init", "server", "127.0.0.1", "--out", server) == "[0, []]"
    assert start("roster", "show", server) == "[0, []]"
