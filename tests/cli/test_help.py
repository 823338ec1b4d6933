"""Every help page says what each argument and option is for."""

import re
from collections.abc import Iterator

import click
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hortus import __version__
from hortus.cli.main import _COMMANDS, app


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


def found(path: tuple[str, ...]) -> click.Command:
    command: click.Command = get_command(app)
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def words(text: str) -> str:
    return " ".join(re.sub(r"[^\w.,;:'ε-]", " ", text.replace("`", "")).split())


@pytest.mark.parametrize("path", list(commands(get_command(app))), ids=" ".join)
def test_a_page_explains_each_parameter(path: tuple[str, ...]) -> None:
    command = found(path)
    done = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "300"})
    assert done.exit_code == 0
    page = words(done.output)
    assert command.help
    assert words(command.help.split(".")[0]) in page
    for parameter in command.params:
        if parameter.name == "help":
            continue
        told = getattr(parameter, "help", None)
        assert told, f"{' '.join(path)}: {parameter.name} has no help"
        assert words(told)[:40] in page, f"{' '.join(path)}: {parameter.name}"


def test_settings_are_for_runs_of_ones_own() -> None:
    """A plan that sites have to approve is the file that they read."""
    having = {
        " ".join(path)
        for path in commands(get_command(app))
        if any("--set" in parameter.opts for parameter in found(path).params)
    }
    assert having == {"plan budget", "simulate", "demo classify", "demo chat", "audit attack"}


def test_the_version_is_told() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"hortus {__version__}\n")


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_command_is_listed_with_the_first_sentence_of_its_page(name: str) -> None:
    first = (found((name,)).help or "").strip().split("\n\n")[0]
    assert _COMMANDS[name][1] == " ".join(first.split())
