"""How errors reach a person: one screen, a meaningful exit code, a traceback only with --debug."""

from typing import Any

import click
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from hortus.cli.display import terminal
from hortus.runtime.errors import HortusError, printable
from hortus.runtime.surroundings import out_of_files, out_of_memory

_INTERRUPTED = 130
_TITLES = {1: "Failed", 2: "Cannot use this", 3: "Refused"}


class ReportingGroup(TyperGroup):
    """Ends with 0, 1 (failure), 2 (usage), 3 (refused) or 130 (interrupted); `audit` also with 4."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Runs the command and explains what went wrong."""
        console = terminal(stderr=True)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.print()
            console.print(
                "Interrupted. Finished work is kept; run the same command again to resume."
            )
            ctx.exit(_INTERRUPTED)
        except click.ClickException as error:
            # It quotes the command line, where a pattern may have put other people's file names.
            vars(error)["message"] = printable(error.message)
            raise
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # nobody reads on, as after `| head`: click ends quietly
        except Exception as error:
            if ctx.params["debug"]:
                raise
            known = _explain(error)
            console.print(_panel(known))
            ctx.exit(known.exit_code)


def _explain(error: Exception) -> HortusError:
    if isinstance(error, HortusError):
        return error
    if (no_memory := out_of_memory(error)) is not None:
        return no_memory
    if isinstance(error, OSError):
        problem = error.strerror or str(error)
        return HortusError(problem, where=error.filename, remedy=out_of_files())
    return HortusError(
        f"unexpected {type(error).__name__}: this is a defect of Hortus",
        remedy="--debug shows its traceback, which may quote records: read it before you "
        "pass it on.",
    )


def _panel(error: HortusError) -> Panel:
    text = Text()
    if error.where:
        text.append(f"{error.where}\n", style="bold")
    text.append(error.problem)
    if error.remedy:
        text.append(f"\n\n{error.remedy}", style="italic")
    return Panel(text, title=_TITLES[error.exit_code], title_align="left", border_style="red")
