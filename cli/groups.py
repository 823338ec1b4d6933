"""A group of commands whose first is meant where none is named."""

import click
from typer.core import TyperGroup


class FallbackGroup(TyperGroup):
    """`hortus GROUP ARGUMENTS` runs the command that was added first.

    So a word that names no command of the group is an argument of that one.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the first command's name before arguments that start with no command's."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)
