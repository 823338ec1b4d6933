"""Whatever encoding output has, a command says what it has to say."""

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

PROGRAM = """
from hortus.cli.display import terminal
from hortus.cli.streams import write_in_any_encoding
from rich.panel import Panel
from rich.table import Table
write_in_any_encoding()
console, errors = terminal(), terminal(stderr=True)
table = Table("site", "ε spent → “left”", title="naïve — 80 °C")
table.add_row("Łódź 東京", "ε = 1.25 ± ½ …")
console.print(table)
errors.print(Panel("a file: caf\\udce9.csv, \\U0001f600"))
print("ε ≤ ∞")
"""


def run(environment: Mapping[str, str]) -> "subprocess.CompletedProcess[bytes]":
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-c", f"exec({PROGRAM!a})"],
        env=kept | {"COLUMNS": "60"} | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"PYTHONIOENCODING": "ascii"}, "ascii"),
        ({"PYTHONIOENCODING": "cp1252"}, "cp1252"),
        ({"PYTHONIOENCODING": "cp437"}, "cp437"),
        ({"PYTHONIOENCODING": "iso8859-2:strict"}, "iso8859-2"),
        ({"PYTHONIOENCODING": "koi8-r"}, "koi8-r"),
        ({"PYTHONIOENCODING": "shift-jis"}, "shift-jis"),
        ({"LC_ALL": "C"}, "utf-8"),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({}, "utf-8"),
    ],
)
def test_output_is_whole_in_any_encoding(environment: Mapping[str, str], encoding: str) -> None:
    done = run(environment)
    assert done.returncode == 0, done.stderr
    out, errors = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert "1.25" in out
    if encoding in {"ascii", "latin-1", "cp1252", "iso8859-2"}:
        assert "eps = 1.25" in out
        assert "eps <= inf" in out
    if encoding == "utf-8":
        assert "ε ≤ ∞" in out
        assert "Łódź 東京" in out
    assert "a file: caf" in errors
    assert ".csv" in errors


def test_the_help_is_printed_in_ascii() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from hortus.cli.main import main; main()", "plan", "--help"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.decode("ascii")
