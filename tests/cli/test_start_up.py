"""A command that needs neither torch nor Flower starts without them: they take seconds to load."""

import subprocess
import sys

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
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "[0, []]", done.stderr
