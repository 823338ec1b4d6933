"""Other people's words on the terminal: names, plans, reasons and paths command nothing there."""

import ast
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner, Result

import hortus
from hortus.cli.display import absences_table, terminal
from hortus.cli.main import app
from hortus.server.run.absences import Absence
from tests.conftest import write_records

# Conceals what follows, clears the screen, names the window, turns writing round, sounds, 8-bit CSI,
# a line of its own, an invisible character, and rich's own markup.
HOSTILE = (
    "x\x1b[8m\x1b[2J\x1b]0;t\x07\u202e\u2066\x9b31m\x00\r\nFORGED\u2028FORGED\u200by[bold]z[/]"
)
# Markdown and styled text have lines; who makes them cleans single words first.
ON_A_LINE = "".join(HOSTILE.splitlines())
# A file name can hold all of this as well.
FOLDER = "f\x1b[2J\u202e[red]\nFORGED"


def run(*arguments: object) -> Result:
    # So wide that no line is broken before a word of a path.
    return CliRunner(env={"COLUMNS": "4000", "TERM": "dumb"}).invoke(app, list(map(str, arguments)))


def is_harmless(output: str) -> bool:
    lines = output.split("\n")
    return all(map(str.isprintable, lines)) and not any(x.startswith("FORGED") for x in lines)


@pytest.mark.parametrize(
    "renderable",
    [
        HOSTILE,
        Text(ON_A_LINE),
        Panel(Text(ON_A_LINE), title=HOSTILE),
        Markdown(f"# `{ON_A_LINE}`\n\n* {ON_A_LINE}"),
        absences_table([Absence(HOSTILE, 1, HOSTILE, None)]),
    ],
    ids=["text", "styled", "panel", "markdown", "table"],
)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_no_renderable_commands_the_terminal(renderable: Any, is_terminal: bool) -> None:
    output = StringIO()
    console = terminal(file=output, width=300, force_terminal=is_terminal, color_system=None)
    console.print(renderable)
    assert is_harmless(output.getvalue())
    assert "[bold]z[/]" in output.getvalue()


def test_a_long_line_is_folded_and_not_cut() -> None:
    words = " ".join(f"word{number}" for number in range(60))
    for renderable in (words, Text(words), Panel(words)):
        output = StringIO()
        terminal(file=output, width=40).print(renderable)
        assert all(f"word{number}" in output.getvalue() for number in range(60))
        assert max(map(len, output.getvalue().split("\n"))) <= 40


def test_a_table_of_foreign_words_keeps_its_columns() -> None:
    table = Table("site", "why", title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE, "right")
    table.add_row("ash", "right")
    output = StringIO()
    terminal(file=output, width=300).print(table)
    assert is_harmless(output.getvalue())
    cells = [line.index("right") for line in output.getvalue().split("\n") if "right" in line]
    assert len(cells) == 2
    assert len(set(cells)) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / FOLDER
    path.mkdir()
    return path


def test_a_hostile_plan_is_shown_and_refused_without_harm(write_plan: Any, tmp_path: Path) -> None:
    labels = ["warm", "fresh", "cool", HOSTILE]
    path = write_plan(task={"labels": labels}, privacy={"unit": HOSTILE, "max_records_per_unit": 2})
    for arguments in (("plan", path), ("plan", "show", path)):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert is_harmless(result.output), arguments
    site = tmp_path / "north"
    assert (
        run("init", "site", "north", "--data", tmp_path / "ash.csv", "--out", site).exit_code == 0
    )
    for arguments in (("approve", site, path), ("simulate", path, "--out", tmp_path / "run")):
        result = run(*arguments)
        assert result.exit_code == 2
        assert is_harmless(result.output), arguments
    fields = yaml.safe_load(path.read_text()) | {"model": HOSTILE}
    path.write_text(yaml.safe_dump(fields))
    for arguments in (("plan", path), ("plan", "show", path), ("approve", site, path)):
        result = run(*arguments)
        assert result.exit_code == 2
        assert is_harmless(result.output), arguments


def test_paths_are_shown_as_they_are_by_every_command(write_plan: Any, folder: Path) -> None:
    cohort = {"minimum": 3, "max_colluding": 1}
    plan, data = write_plan(cohort=cohort), write_records(folder / "data[bold].csv", 60)
    trial, other, run_ = folder / "trial", folder / "site", folder / "run"
    named = [f"--site={name}={data}" for name in ("ash", "birch", "cedar")]
    site, server = trial / "sites" / "ash", trial / "server"
    printed = []
    for expected, arguments in (
        (0, ("init", "trial", trial, *named, "--epsilon", "60", "--delta", "1e-3")),
        (0, ("init", "site", "oak", "--data", data, "--out", other)),
        (0, ("init", "server", "127.0.0.1", "--out", folder / "server")),
        (2, ("init", "site", "oak", "--data", folder / "none", "--out", other)),
        (0, ("roster", "add", folder / "server", other / "oak.card.yaml")),
        (0, ("roster", "show", site)),
        (0, ("roster", "card", site)),
        (2, ("roster", "add", site, folder / "none")),
        (0, ("rotate", "tls", server)),
        (0, ("rotate", "flower", site)),
        (0, ("rotate", "identity", site)),
        (0, ("rotate", "authority", server)),
        (0, ("approve", site, plan)),
        (0, ("plan", "show", plan, "--site", site)),
        (0, ("plan", plan, "--site", site, "--plot", folder / "plot.svg")),
        (0, ("simulate", plan, "--out", run_)),
        (0, ("status", site)),
        (0, ("status", server)),
        (1, ("check", site, plan)),  # no server listens
        (0, ("check", run_ / "consortium" / "server")),
        (0, ("status", site, "--json")),
        (0, ("status", run_)),
        (0, ("budget", "show", run_ / "consortium" / "sites" / "ash")),
        (0, ("budget", "anchor", run_ / "consortium" / "sites" / "ash", folder / "head")),
        (2, ("budget", "show", folder / "none")),
        (0, ("audit", "export", run_ / "consortium" / "sites" / "ash", folder / "bundle")),
        (2, ("audit", folder / "none")),
        (2, ("dashboard", folder / "none")),
        (2, ("simulate", folder / "none")),
        (2, ("roster", "show", site, HOSTILE)),
    ):
        result = run(*arguments)
        assert result.exit_code == expected, (arguments, result.output)
        assert is_harmless(result.output), arguments
        printed.append("".join(result.output.split()))
    assert "[bold]" in "".join(printed)
    assert "[red]" in "".join(printed)


def test_a_directory_that_is_no_text_is_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x9b"))
    result = run("init", "server", "127.0.0.1", "--out", path)
    assert result.exit_code == 0, result.output
    assert is_harmless(result.output)


def test_only_one_module_prints() -> None:
    """What is cleaned in one place is cleaned only if nothing goes round it."""
    package = Path(hortus.__file__).resolve().parent
    found = []
    for path in package.glob("*/*.py"):
        if (
            path.parent.name in ("tests", "benchmarks", "examples")
            or path == package / "cli" / "display.py"
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in {"Console", "print", "rich.print", "sys.stdout.write"} or name.endswith(
                    ("echo", "from_markup", "print_json")
                ):
                    found.append(f"{path.name}:{node.lineno}: {name}")
            if isinstance(node, ast.ImportFrom) and node.module == "rich.markup":
                found.append(f"{path.name}:{node.lineno}: rich.markup")
    allowed = {"echo", "echo_json"}
    assert not [one for one in found if one.split(": ")[1] not in allowed]
