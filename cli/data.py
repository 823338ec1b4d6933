"""`hortus data`: a site's records, looked at by whoever may see them, before anything learns from them."""

import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hortus.cli.display import echo_json, terminal
from hortus.cli.options import SiteFolder
from hortus.cli.settings import allow_kinds, read_plan
from hortus.protocol.privacy import RECORD
from hortus.runtime.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from hortus.learning.data.survey import Survey
    from hortus.simulation.data_checks import (
        Cost,
        Findings,
        Identifiers,
        Lengths,
        PlanFindings,
        Shown,
        Units,
    )

_FOUND = 1
_ROWS_SHOWN = 3
_LABELS_SHOWN = 30
_CHARACTERS_SHOWN = 1500
_MUCH_CUT = 0.05
_LEARNT, _GIVEN = "bold green", "dim"

data = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Look at a site's records before anything learns from them, or hold a share of a file out.",
)


Rows = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Records to show as the model is given them. Default: 3 at a terminal, and none in a file.",
    ),
]
Mask = Annotated[
    bool,
    typer.Option(
        "--mask", help="Look at the records as `mask_identifiers: true` in site.yaml has them."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON: figures, and no text of a record.")
]
CheckedPlan = Annotated[
    Path | None, typer.Argument(help="A plan to read the records by. Default: the file alone.")
]


@data.command()
def check(
    site: SiteFolder,
    plan: CheckedPlan = None,
    rows: Rows = None,
    mask: Mask = False,
    as_json: AsJson = False,
) -> None:
    """Say what a site's records are like, and what a plan would make of them and spend.

    Everything is read on this machine and shown here alone: keep the output at the site. Exits with 1 if records do
    not fit the plan, or what is left of the budget does not cover it.
    """
    from hortus.client.site.folder import Site

    allow_kinds(site)
    loaded = None if plan is None else read_plan(plan, site=site)
    console = terminal()
    shown = rows if rows is not None else _ROWS_SHOWN if console.is_terminal else 0
    with terminal(stderr=True).status("reading…"):
        from hortus.simulation.data_checks import check_data
        from hortus.simulation.prospect import prospect

        what = None
        if loaded is not None and plan is not None:
            what = prospect(loaded, plan.resolve().parent, None)
        with Site(site, time.time, what.model_path if what else None, alone=True) as opened:
            found = check_data(opened, what, 0 if as_json else shown, mask=mask)
    problems = list(_problems(found))
    if as_json:
        echo_json(_as_json(found, problems))
    else:
        _show(console, found, problems)
    if problems:
        raise typer.Exit(_FOUND)


@data.command()
def split(
    file: Annotated[Path, typer.Argument(help="A file of records, in any format that is read.")],
    share: Annotated[float, typer.Option(help="Share of units to hold out, such as 0.1.")] = 0.1,
    unit: Annotated[
        str, typer.Option(help="Whose rows stay together: record, or a column such as patient_id.")
    ] = RECORD,
    key: Annotated[
        str | None,
        typer.Option(
            help="What the draw goes by: with the same text the same units are held out, in whatever order the "
            "rows are. Default: a new one, which is printed."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl and held-out.jsonl.")] = Path(),
) -> None:
    """Hold a share of a file out, by a keyed hash of each unit, for testing on what was not learnt from."""
    from hortus.learning.data import split as splitting

    if not 0 < share < 1:
        raise UsageError(f"{share:g} is not between 0 and 1", where="--share")
    kept, held_out = out / "train.jsonl", out / "held-out.jsonl"
    for path in (kept, held_out):
        if path.exists():
            raise UsageError(
                "the file exists already", where=str(path), remedy="Choose another --out."
            )
    out.mkdir(parents=True, exist_ok=True)
    drawn_by = key or secrets.token_hex(8)
    try:
        parts = splitting.split(
            file, None if unit == RECORD else unit, share, drawn_by, kept, held_out
        )
    except BaseException:
        kept.unlink(missing_ok=True)
        held_out.unlink(missing_ok=True)
        raise
    console = terminal()
    console.print(f"{kept}: {parts.kept:,} rows", soft_wrap=True)
    console.print(f"{held_out}: {parts.held_out:,} rows", soft_wrap=True)
    if key is None:
        console.print(f"Drawn by a new key; the same again with --key {drawn_by}", soft_wrap=True)


def _problems(found: "Findings") -> Iterator[str]:
    """Yields what keeps the plan from being trained here."""
    plan = found.plan
    if plan is None:
        return
    if plan.unfit:
        yield f"{plan.unfit:,} records do not fit the plan, which is refused until they do"
    for cost in plan.cost:
        if cost.rounds_covered < cost.rounds:
            yield (
                f"what is left of the budget of {cost.limit_of} covers {cost.rounds_covered} of "
                f"{cost.rounds} rounds"
            )


def _warnings(found: "Findings") -> Iterator[str]:
    """Yields what deserves a second look."""
    if same := found.survey.duplicates:
        yield (
            f"rows that are the same as an earlier one: {same:,}. What they say is learnt more than once, and where "
            "the unit is a record, each of them counts as somebody else"
        )
    identifiers = found.identifiers
    if identifiers.rows and not identifiers.masked:
        yield (
            f"{identifiers.rows:,} of {identifiers.searched:,} rows looked at hold likely identifiers: --mask "
            "shows them masked, `mask_identifiers: true` in site.yaml trains on them so"
        )
    plan = found.plan
    if plan is None:
        return
    if plan.lengths and plan.lengths.cut > _MUCH_CUT:
        yield (
            f"{_percent(plan.lengths.cut)} of the records are cut at task.max_length: {plan.lengths.limit}, and "
            f"{_percent(plan.lengths.tokens_cut)} of all tokens are lost"
        )
    if plan.unseen:
        yield f"no record has {', '.join(map(repr, plan.unseen[:_LABELS_SHOWN]))}"
    if plan.units.above:
        yield (
            f"{plan.units.above:,} of {plan.units.count:,} units have more records than "
            f"privacy.max_records_per_unit: {plan.units.cap}. A step draws that many of them, each time again"
        )
    if not plan.cost and not plan.unfit:
        yield "what was spent here protects another unit than the plan's: see `hortus budget show`"


def _as_json(found: "Findings", problems: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "data": str(found.data),
        "survey": asdict(found.survey),
        "identifiers": asdict(found.identifiers),
        "plan": None,
        "problems": problems,
        "warnings": list(_warnings(found)),
    }
    if (plan := found.plan) is not None:
        told["plan"] = {
            "name": plan.name,
            "records": plan.records,
            "unfit": plan.unfit,
            "faults": [fault.where for fault in plan.faults],
            "lengths": asdict(plan.lengths) if plan.lengths else None,
            "labels": plan.labels,
            "unseen": plan.unseen,
            "units": asdict(plan.units),
            "cost": [
                {key: _finite(value) for key, value in asdict(cost).items()} for cost in plan.cost
            ],
        }
    return told


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(console: "Console", found: "Findings", problems: list[str]) -> None:
    console.print(_schema(found.survey, str(found.data)))
    same = found.survey.duplicates
    console.print(f"{found.survey.rows:,} rows, {same:,} of them the same as an earlier one")
    console.print()
    if found.plan is not None:
        for table in _plan_tables(found.plan):
            console.print(table)
            console.print()
    for part in _identifiers(found.identifiers):
        console.print(part)
    console.print()
    for number, one in enumerate(found.shown, start=1):
        console.print(
            Text(f"As the model is given it, {number} of {len(found.shown)}:", style="bold")
        )
        console.print(_record(one, marked=not console.is_terminal))
        console.print()
    if any(piece.learnt for one in found.shown for piece in one.pieces):
        marks = "within ⟦ ⟧" if not console.is_terminal else "in green"
        console.print(Text(f"What is {marks} is learnt; the rest is only read.", style="italic"))
        console.print()
    if found.plan is not None:
        for fault in found.plan.faults:
            # It may quote a label, which in a wrong column is a text.
            said = str(fault) if console.is_terminal else f"{fault.where}: it does not fit the plan"
            console.print(Text(said, style="red"))
    for warning in _warnings(found):
        console.print(Text(f"Look again: {warning}.", style="yellow"))
    for problem in problems:
        console.print(Text(f"Problem: {problem}.", style="bold red"))
    console.print("Shown here alone: keep it at the site.")


def _schema(found: "Survey", title: str) -> Table:
    table = _table(title, "column", "holds", "missing", "different", "characters, mean and most")
    for column in found.columns:
        kinds = ", ".join(
            kind if len(column.kinds) == 1 else f"{kind} {count:,}"
            for kind, count in column.kinds.items()
        )
        lengths = f"{column.mean_characters:,.0f}, {column.most_characters:,}"
        table.add_row(
            column.name,
            kinds or "nothing",
            f"{column.missing:,}",
            "> 50" if column.different is None else str(column.different),
            lengths if column.most_characters else "–",
        )
    return table


def _plan_tables(plan: "PlanFindings") -> Iterator[Table]:
    yield _facts(plan)
    for name, counts in plan.labels.items():
        table = _table(f"Column {name!r}", "value", "records", "share")
        total = sum(counts.values())
        for label, count in list(counts.items())[:_LABELS_SHOWN]:
            table.add_row(label[:60], f"{count:,}", _percent(count / total))
        if len(counts) > _LABELS_SHOWN:
            table.add_row(f"{len(counts) - _LABELS_SHOWN} more", "", "")
        yield table
    if plan.cost:
        yield _cost(plan.cost)


def _facts(plan: "PlanFindings") -> Table:
    table = Table(
        box=None, show_header=False, pad_edge=False, title=f"Plan {plan.name}", title_justify="left"
    )
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("records", f"{plan.records:,} fit, {plan.unfit:,} do not")
    for name, said in (*_lengths(plan.lengths), *_units(plan.units)):
        table.add_row(name, said)
    return table


def _lengths(lengths: "Lengths | None") -> Iterator[tuple[str, str]]:
    if lengths is not None:
        yield (
            "tokens",
            f"{lengths.median:,.0f} in the median, {lengths.mean:,.0f} on average, {lengths.most:,} at most",
        )
        cut = f"{_percent(lengths.cut)} of the records at {lengths.limit:,} tokens"
        yield "cut", f"{cut}, {_percent(lengths.tokens_cut)} of all tokens"


def _units(units: "Units") -> Iterator[tuple[str, str]]:
    yield "unit", f"one {units.unit}: {units.count:,} of them"
    if units.cap is not None:
        yield (
            "records of a unit",
            f"{units.mean:,.1f} on average, {units.most:,} at most; a step takes {units.cap:,}",
        )


def _cost(costs: "tuple[Cost, ...]") -> Table:
    title = f"What the plan would spend, ε at δ = {costs[0].delta:g}"
    table = _table(title, "limit of", "a round", "the plan", "left", "of", "covers")
    for cost in costs:
        covered = cost.rounds_covered >= cost.rounds
        table.add_row(
            cost.limit_of,
            _epsilon(cost.a_round),
            _epsilon(cost.whole),
            "0" if cost.spent is None else f"{max(0.0, cost.limit - cost.spent):.4f}",
            f"{cost.limit:g}",
            Text(
                f"{cost.rounds_covered} of {cost.rounds} rounds",
                style="green" if covered else "red",
            ),
        )
    return table


def _epsilon(value: float | None) -> str:
    return "∞" if value is None or math.isinf(value) else f"{value:.4f}"


def _identifiers(found: "Identifiers") -> Iterator[str | Table]:
    masked = "masked before anything is learnt" if found.masked else "not masked"
    yield f"Likely identifiers, {masked}"
    if not found.searched:
        yield f"Nobody looked: {found.blind_to}"
        return
    if found.kinds:
        table = _table("", "kind", "passages")
        for kind, count in found.kinds.items():
            table.add_row(kind, f"{count:,}")
        yield table
    yield f"In {found.rows:,} of {found.searched:,} rows looked at. Not found: {found.blind_to}."


def _record(shown: "Shown", *, marked: bool) -> Text:
    """A record's tokens, those that are learnt in another colour, or in brackets where there is no colour."""
    text = Text()
    for piece in shown.pieces:
        said = f"⟦{piece.text}⟧" if piece.learnt and marked else piece.text
        text.append(said, style=_LEARNT if piece.learnt else _GIVEN)
    if len(text) > _CHARACTERS_SHOWN:
        more = len(text) - _CHARACTERS_SHOWN
        text = text[:_CHARACTERS_SHOWN].append(f" … {more:,} more characters", style="italic")
    if shown.target:
        text.append(f"\n→ {shown.target}", style=_LEARNT)
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for name in columns:
        table.add_column(name)
    return table


def _percent(share: float) -> str:
    """Writes a share of one."""
    return f"{100 * share:.1f} %"
