"""`hortus check`: one line for everything that could keep a party from a run."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hortus.cli.display import echo_json, terminal
from hortus.cli.settings import allow_kinds
from hortus.parties.checks import Check, Outcome
from hortus.parties.folders import ServerFiles, SiteFiles, open_party
from hortus.planning.plan_file import load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {
    Outcome.OK: "green",
    Outcome.WARNING: "yellow",
    Outcome.PROBLEM: "bold red",
    Outcome.UNTRIED: "dim",
}
_FOUND = 1


def check(
    directory: Annotated[Path, typer.Argument(help="A site's folder, or the server's.")],
    plan: Annotated[
        Path | None,
        typer.Argument(
            help="A plan to check a site against. Default: the plans that the site has kept."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Check what could keep a site or the server from taking part in a run, and print a remedy for each problem.

    Checks keys, certificates, cards, roster, disk and limits; at a site also the path to the server (name, port, TLS,
    clock), model, records, policy and budget. Exits with 1 if there is a problem. The only traffic from this
    machine is the beginning of each connection to the server.
    """
    party = open_party(directory)
    allow_kinds(directory if isinstance(party, SiteFiles) else None)
    loaded = None if plan is None else load_plan(plan)
    console = terminal()
    found = []
    for line in _lines(party, loaded, plan):
        found.append(line)
        if not as_json:
            _show(console, line)
    if as_json:
        echo_json([asdict(line) for line in found])
    problems = sum(line.verdict is Outcome.PROBLEM for line in found)
    if not as_json:
        warnings = sum(line.verdict is Outcome.WARNING for line in found)
        console.print(f"{len(found)} checks, {problems} problems, {warnings} warnings")
    if problems:
        raise typer.Exit(_FOUND)


def _lines(files: SiteFiles | ServerFiles, plan: Plan | None, path: Path | None) -> Iterator[Check]:
    now = datetime.now(UTC)
    if isinstance(files, ServerFiles):
        from hortus.parties.checks import check_server

        yield from check_server(files, now)
        if plan is not None and path is not None:
            from hortus.simulation.plan_checks import check_plan_at_server

            yield check_plan_at_server(plan, path)
        return

    from hortus.client.operator.checks import check_site
    from hortus.simulation.plan_checks import check_kept_plans, check_plan_at_site

    yield from check_site(files, now)
    if plan is not None and path is not None:
        yield from check_plan_at_site(files, plan, path)
    else:
        yield from check_kept_plans(files)


def _show(console: "Console", line: Check) -> None:
    # A line break in a path would let it pass for a line of ours.
    said = printable(f"{line.what}: {line.said}")
    console.print(
        Text.assemble((f"{line.verdict:9} ", _STYLES[line.verdict]), said), soft_wrap=True
    )
    if line.remedy:
        console.print(f"          → {line.remedy}", style="italic", soft_wrap=True)
