"""`hortus budget`: what a site has spent and may spend, and its operator's signed decisions."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hortus.cli.approve import operator_name
from hortus.cli.display import terminal
from hortus.cli.options import SiteFolder
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from hortus.privacy.ledger.decisions import Frozen, Granted, Unfrozen
    from hortus.privacy.ledger.exposure import Exposure

_LEVELS_SHOWN = 4

budget = typer.Typer(
    name="budget",
    no_args_is_help=True,
    help="Show a site's budgets, and decide what its datasets may still release.",
)

Reason = Annotated[str, typer.Option(help="Reason; it stays in the ledger.")]
Dataset = Annotated[
    str | None,
    typer.Option(help="First digits of a dataset's fingerprint. Default: every dataset."),
]


@budget.command()
def show(site: SiteFolder) -> None:
    """Show each dataset's ε, its limit, what is left, and what its units have spent."""
    from hortus.client.operator.accounts import account_lines, opened_ledger, unit_lines

    console = terminal()
    with opened_ledger(site, time.time) as (ledger, policy):
        lines = account_lines(ledger, policy.budget)
        units = unit_lines(ledger, policy.budget.delta)
    table = Table(
        *("dataset", "contents", "unit", "ε spent", "limit", "left", "held", ""), box=None
    )
    for line in lines:
        table.add_row(
            line.dataset[:16],
            str(line.contents),
            line.unit,
            f"{line.spent:.4f}",
            f"{line.limit:g}",
            f"{line.left:.4f}",
            str(line.held),
            "" if line.frozen is None else f"frozen: {line.frozen}",
        )
    console.print(table)
    for line in lines:
        console.print(_units_in_words(line.dataset, units.get(line.dataset, [])))
        if (said := line.statement) is not None:
            others = ", ".join(other[:16] for other in said.others)
            console.print(
                f"dataset {line.dataset[:16]}: disjoint from {others}, says {said.operator}: "
                f"{said.reason}"
            )
    allowed = policy.budget
    console.print(
        f"ε at δ = {allowed.delta:g}, for everything ever released. The limit is budget.epsilon of "
        f"policy.yaml ({allowed.epsilon:g}) and the grants."
    )
    if allowed.per_plan is not None:
        console.print(f"One plan may cost ε = {allowed.per_plan:g}.")
    if allowed.per_period is not None:
        console.print(
            f"One {allowed.per_period.every} may cost ε = {allowed.per_period.epsilon:g}."
        )


def _units_in_words(dataset: str, exposures: "Sequence[Exposure]") -> str:
    """What single units have spent; the account's ε is that of a unit that was always present."""
    start = f"dataset {dataset[:16]}: "
    if not exposures:
        return f"{start}its units were not hashed, so each unit may have spent all of it."
    first, *others = exposures
    shown = [f"{one.units} at most {one.epsilon:.4f}" for one in others[:_LEVELS_SHOWN]]
    if rest := sum(one.units for one in others[_LEVELS_SHOWN:]):
        shown.append(f"{rest} less")
    told = f"{start}the most exposed units ({first.units}) have spent ε = {first.epsilon:.4f} each"
    return f"{told}; {', '.join(shown)}." if shown else f"{told}."


@budget.command()
def disjoint(
    site: SiteFolder,
    other: Annotated[
        list[str],
        typer.Option("--from", help="First digits of an existing dataset; name every one of them."),
    ],
    reason: Reason,
    data: Annotated[
        Path | None,
        typer.Option(help="The file that the statement is about. Default: the site's records."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Name of whoever states it. Default: the user's name.")
    ] = None,
) -> None:
    """State that a file holds other people than a dataset; its releases then get their own account.

    Make the statement before the file is used. It is refused if a unit is in both, and void once one is.
    """
    from hortus.client.operator.accounts import state_disjoint
    from hortus.client.site.folder import Site

    with Site(site, time.time) as opened:
        operator = operator_name(by)
        entry, said, units = state_disjoint(opened, data, other, operator, reason)
    terminal().print(
        f"entry {entry.seq}: dataset {said.dataset[:16]} is disjoint from "
        f"{', '.join(one[:16] for one in said.others)}, says {said.operator}; its {units} units are not in any of them"
    )


@budget.command()
def grant(
    site: SiteFolder,
    epsilon: Annotated[float, typer.Option(help="Amount to add to the limit.")],
    reason: Reason,
    dataset: Dataset = None,
) -> None:
    """Raise the lifetime budget with a signed entry in the ledger."""
    from hortus.privacy.ledger.decisions import Granted

    _record(site, dataset, lambda name: Granted(name, epsilon, reason))


@budget.command()
def freeze(site: SiteFolder, reason: Reason, dataset: Dataset = None) -> None:
    """Forbid every further release at once; a running agent obeys, too."""
    from hortus.privacy.ledger.decisions import Frozen

    _record(site, dataset, lambda name: Frozen(name, reason))


@budget.command()
def unfreeze(site: SiteFolder, reason: Reason, dataset: Dataset = None) -> None:
    """Lift a freeze; name the dataset, or all, as the freeze did."""
    from hortus.privacy.ledger.decisions import Unfrozen

    _record(site, dataset, lambda name: Unfrozen(name, reason))


@budget.command()
def anchor(
    site: SiteFolder,
    file: Annotated[
        Path, typer.Argument(help="File to write the head to, preferably on another machine.")
    ],
) -> None:
    """Write the ledger's signed head to a file, which later shows whether the ledger was rolled back."""
    from hortus.client.operator.accounts import opened_ledger

    with opened_ledger(site, time.time) as (ledger, _):
        head = ledger.signed_head()
    if head is None:
        raise UsageError("the ledger has no entry to anchor yet", where=str(site))
    head.save(file)
    terminal().print(f"{file}: entry {head.seq}, {head.hash[:16]}…")


def _record(
    site: Path, dataset: str | None, decide: "Callable[[str], Granted | Frozen | Unfrozen]"
) -> None:
    from hortus.client.operator.accounts import find_dataset, opened_ledger

    with opened_ledger(site, time.time) as (ledger, _):
        name = find_dataset(ledger, dataset)
        try:
            decision = decide(name)
        except ValueError as error:
            raise UsageError(str(error)) from error
        entry = ledger.record(decision)
    whom = "every dataset" if dataset is None else f"dataset {name[:16]}"
    terminal().print(f"entry {entry.seq}: {decision.kind}, {whom}")
