"""Groups of commands: one that imports a command when it is named, and one whose first needs no name."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, cast

import click
from typer import Typer
from typer.core import TyperGroup
from typer.main import get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo


class LateCommands(Mapping[str, click.Command]):
    """Commands by name, each imported when it is needed.

    Args:
        sources: Where each is, as `module:function`, or `module:group` with a `typer.Typer`.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._imported: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._imported:
            module, _, attribute = self._sources[name].partition(":")
            self._imported[name] = _command(name, getattr(import_module(module), attribute))
        return self._imported[name]

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def as_commands(self) -> dict[str, click.Command]:
        """Returns itself as what click declares: it only ever looks commands up and lists them."""
        return cast("dict[str, click.Command]", self)


def _command(name: str, found: Any) -> click.Command:  # noqa: ANN401 - a function of any signature
    if isinstance(found, Typer):
        return get_group_from_info(
            TyperInfo(found, name=name),
            pretty_exceptions_short=False,
            suggest_commands=False,  # click does
            rich_markup_mode="markdown",
        )
    return get_command_from_info(
        CommandInfo(name, callback=found),
        pretty_exceptions_short=False,
        rich_markup_mode="markdown",
    )


class FallbackGroup(TyperGroup):
    """`hortus GROUP ARGUMENTS` runs the command that was added first.

    So a word that names no command of the group is an argument of that one; so is an empty command line, unless they
    ask
    for help.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the first command's name before arguments that start with no command's."""
        first = args[0] if args else None
        named = first in self.commands or first in ctx.help_option_names
        if not named and (args or not self.no_args_is_help):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)
