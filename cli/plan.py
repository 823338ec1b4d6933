"""`hortus plan`: what a plan costs and what it means, before anything runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from hortus.cli.display import echo, terminal
from hortus.cli.groups import FallbackGroup
from hortus.cli.settings import Settings, read_plan
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import HortusError, UsageError

if TYPE_CHECKING:
    from hortus.privacy.accounting.forecast import PlanCost, SiteBudget, SiteForecast
    from hortus.simulation.prospect import Prospect

plan = typer.Typer(
    name="plan",
    cls=FallbackGroup,
    no_args_is_help=True,
    help="Examine a plan before anything runs: hortus plan PLAN.yaml shows what it costs each site.",
)

PlanFile = Annotated[Path, typer.Argument(help="The plan file.")]
SiteFolder = Annotated[
    Path | None,
    typer.Option(help="A site's folder: use its policy and what its ledger has spent."),
]


_Epsilon = Annotated[float | None, typer.Option(help="A site's budget ε to compare with.")]
_Delta = Annotated[float | None, typer.Option(help="δ of that budget.")]
_Sites = Annotated[
    int | None,
    typer.Option(min=2, help="Number of sites in a sum. Default: all sites that the plan names."),
]
_Plot = Annotated[
    Path | None, typer.Option(help="Draw ε against rounds in a .svg, .png or .html file.")
]
_Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Send a step of made-up records through two gradient engines and compare them.",
    ),
]


@plan.command()
def budget(
    plan_file: PlanFile,
    settings: Settings = None,
    epsilon: _Epsilon = None,
    delta: _Delta = None,
    site: SiteFolder = None,
    sites: _Sites = None,
    plot: _Plot = None,
    verify: _Verify = False,
) -> None:
    """Print what a plan costs each site, before anything runs.

    For a plan with `privacy.epsilon`, chooses the noise that keeps it; for one with
    `privacy.noise_multiplier`, computes the resulting ε.
    """
    loaded = read_plan(plan_file, settings, site=site)
    _check_options(epsilon, delta, site)

    from hortus.simulation.prospect import (
        doubts_about,
        prospect,
        refusal_at,
        site_budgets,
        units_at,
    )

    console = terminal()
    with console.status("choosing noise…"):
        what = prospect(loaded, plan_file.resolve().parent, sites)
        budgets = site_budgets(what, epsilon, delta, site)
        forecasts = [what.cost.forecast(one) for one in budgets]
        refusal = refusal_at(what, site) if site else ""
        questions = doubts_about(what, units_at(what, site) if site else None)
    console.print(_mechanism_table(what))
    if verify:
        _verify(what)
    for question in questions:
        console.print(Text(f"Look again: {question}", style="yellow"))
    if refusal:
        console.print(f"This site refuses the plan: {refusal}", style="red")
    if what.cost.event is None:
        console.print("No noise: ε is infinite after the first round.", style="red")
        return
    console.print(_accountants_table(what.cost, forecasts))
    _show_curves(what, budgets, plot)


def _show_curves(what: "Prospect", budgets: "Sequence[SiteBudget]", plot: Path | None) -> None:
    """Prints ε round by round, as bars; also plots it if asked to."""
    from hortus.privacy.accounting.forecast import shown_rounds

    console = terminal()
    with console.status("following ε…"):
        rounds = shown_rounds(what.cost.rounds)
        curves = [what.cost.curve(one, rounds) for one in budgets]
    for one, curve in zip(budgets, curves, strict=True):
        if curve:
            console.print(_bars(one, curve))
    if plot is not None:
        _write_plot(what, budgets, curves, plot)
        console.print(f"plot  {plot}")


@plan.command()
def show(plan_file: PlanFile, site: SiteFolder = None) -> None:
    """Explain a plan to the person who must approve it. Redirected to a file, the output is Markdown."""
    loaded = read_plan(plan_file, site=site)

    from rich.markdown import Markdown

    from hortus.cli.plan_in_words import explain
    from hortus.simulation.prospect import prospect

    console = terminal()
    with terminal(stderr=True).status("choosing noise…"):
        what = prospect(loaded, plan_file.resolve().parent, None)
        text = explain(what, plan_file, site)
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        echo(text.removesuffix("\n"))


def _check_options(epsilon: float | None, delta: float | None, site: Path | None) -> None:
    if site is not None and (epsilon is not None or delta is not None):
        raise UsageError(
            "--site already determines the budget, which is in the site's policy",
            where="--epsilon and --delta",
            remedy="Omit them, or omit --site.",
        )
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise UsageError(f"a budget is a positive number, not {epsilon:g}", where="--epsilon")


def _mechanism_table(what: "Prospect") -> Table:
    from hortus.strategies.kinds import strategy_of

    contract, encoding, cost = what.contract, what.encoding, what.cost
    privacy = contract.privacy
    table = Table(
        box=None, show_header=False, pad_edge=False, title=contract.name, title_justify="left"
    )
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("contract", contract.digest())
    table.add_row("unit", f"one {privacy.unit} of a site, added or removed")
    table.add_row(
        "sampling", f"{contract.training.sampler.kind}, q = {contract.training.sampling_rate:g}"
    )
    table.add_row(
        "releases", f"{cost.rounds} rounds × {cost.per_round} private steps = {cost.steps:,}"
    )
    table.add_row("clipping", _clipping(what))
    _add_mechanism(table, what)
    bits, scale = privacy.ring_bits, strategy_of(what.contract).codec(encoding).scale
    table.add_row("ring scale", f"2^{math.log2(scale):.0f} units for 1.0, of 2^{bits}")
    up, down = _bytes(bits // 8 * encoding.words), _bytes(4 * encoding.words)
    if what.kept_bytes:
        kept = f"run once for each record; {_bytes(what.kept_bytes)} of it at most are kept"
        table.add_row("frozen layers", kept)
    table.add_row("on the wire", f"{up} up and {down} down, a secure sum and site")
    table.add_row(
        "",
        f"({what.dimension:,} parameters of {bits // 8} bytes up and 4 down, {what.contract.sums} sums)",
    )
    return table


def _add_mechanism(table: Table, what: "Prospect") -> None:
    contract, mechanism, event = what.contract, what.encoding.mechanism, what.cost.event
    privacy = contract.privacy
    if mechanism is None or event is None:
        return
    where = (
        "at each site"
        if privacy.noise is Noise.LOCAL
        else (f"in the sum, relying on {contract.cohort.min_honest} honest sites")
    )
    table.add_row("mechanism", f"discrete Gaussian, {privacy.noise.value}: {where}")
    source = (
        "as the plan says"
        if what.target is None
        else f"the least that reaches ε = {what.target:g} at δ = {privacy.delta:g}"
    )
    table.add_row("noise σ/C", f"{privacy.noise_multiplier:g}, {source}")
    table.add_row(
        "accounted σ/C",
        f"{event.noise_multiplier:.6g} over the integer sensitivity, {what.sites} sites",
    )
    table.add_row("a site's noise", f"s = {mechanism.share_std:,} ring units")
    inflation = mechanism.sensitivity / (mechanism.scale * mechanism.clipping_norm) - 1
    table.add_row("rounding", f"{100 * inflation:.3g} % more sensitivity")
    table.add_row("a failed attempt", _attempt(what))
    table.add_row("spare attempts", _spare(what))


def _verify(what: "Prospect") -> None:
    """Shows what two gradient engines make of a step of made-up records.

    Raises:
        HortusError: They differ.
    """
    from hortus.privacy.gradients.verification import TOLERANCE, verify
    from hortus.privacy.gradients.workbench import Workbench

    console = terminal()
    with console.status("computing gradients twice…"):
        found = verify(Workbench(what.contract, what.model_path), what.contract)
    own, other = found.engines
    table = Table(
        box=None,
        pad_edge=False,
        title=f"One step of made-up records, by {own} and by {other}",
        title_justify="left",
    )
    for name in ("unit", "tokens", f"‖g‖ by {own}", f"by {other}", "difference"):
        table.add_column(name, justify="left" if name == "tokens" else "right")
    rows = [(", ".join(map(str, unit.tokens)), unit.norms, unit.difference) for unit in found.units]
    numbers = [str(number) for number in range(1, 1 + len(rows))]
    rows.append(("clipped sum of all", found.sums, found.difference))
    for number, (tokens, norms, difference) in zip([*numbers, ""], rows, strict=True):
        colour = "green" if difference <= TOLERANCE else "red"
        shown = Text(f"{difference:.1e}", style=colour)
        table.add_row(number, tokens, *(f"{norm:.6g}" for norm in norms), shown)
    console.print(table)
    if not found.agree:
        raise HortusError(
            f"the gradients of {own} and {other} differ by {found.worst.difference:.2g} of their norm, and "
            f"may differ by {TOLERANCE:g}",
            where=found.worst.parameter,
            remedy="One of them is wrong. Do not train with either, and please report this with your plan and model.",
        )
    console.print(
        f"{own} and {other} agree: neither a gradient nor the clipped sum differs by more than {TOLERANCE:g} "
        "of its norm.",
        style="green",
    )


def _clipping(what: "Prospect") -> str:
    return what.encoding.rule.words(what.contract.privacy.clipping_norm)


def _attempt(what: "Prospect") -> str:
    if what.contract.privacy.noise is Noise.LOCAL:
        return "costs nothing: the site sends the same noisy vector again"
    first, last = what.cost.attempt(what.contract.privacy.delta)
    return f"ε + {last:.3g} after the last round; {first:.3g} if nothing else is released"


def _spare(what: "Prospect") -> str:
    cost, delta = what.cost, what.contract.privacy.delta
    if not cost.spare:
        return "0: after one failed attempt the budget may not cover the last round"
    all_used, none_used = cost.epsilon(delta), cost.epsilon_unspared(delta)
    told = f"{cost.spare}: ε = {none_used:.4g} if none is used, {all_used:.4g} if all are"
    without, noise = what.unspared_noise, what.contract.privacy.noise_multiplier
    if without is None or noise is None:
        return told
    return f"{told}; {noise / without - 1:.2%} more noise than σ/C = {without:g} without them"


def _accountants_table(cost: "PlanCost", forecasts: Sequence["SiteForecast"]) -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    for name in ("site", "δ", "ε before", "after: PLD", "RDP", "PRV", "budget", "covers"):
        table.add_column(name, justify="left" if name in {"site", "covers"} else "right")
    table.caption = (
        "ε after the plan, with all spare attempts used, is the smaller of PLD and RDP, which are upper "
        "bounds; PRV is an estimate."
    )
    for forecast in forecasts:
        budget = forecast.budget
        after = forecast.after
        bounds = (
            ("∞", "∞", "–") if after is None else map(_number, (after.pld, after.rdp, after.prv))
        )
        colour = "green" if forecast.covers else "red"
        table.add_row(
            budget.site,
            f"{budget.delta:g}",
            _number(forecast.before),
            *bounds,
            _number(budget.epsilon),
            Text(covered(cost, forecast), style=colour),
        )
    return table


def covered(cost: "PlanCost", forecast: "SiteForecast") -> str:
    """Says how much of a plan a budget covers."""
    rounds = f"{forecast.rounds:,} of {cost.rounds:,} rounds"
    if not cost.spare or forecast.rounds < cost.rounds:
        return rounds
    return f"{rounds}, {forecast.spare:,} of {cost.spare:,} spare attempts"


def _bars(budget: "SiteBudget", curve: Sequence[tuple[int, float]]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        title=f"ε against rounds: {budget.site}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("rounds", justify="right")
    table.add_column("ε", justify="right")
    table.add_column("")
    end = max(curve[-1][1], budget.epsilon)
    for number, value in curve:
        colour = "green" if value <= budget.epsilon else "red"
        bar = Bar(end, 0, value, width=40, color=colour)
        table.add_row(str(number), _number(value), bar)
    table.add_row("", _number(budget.epsilon), Bar(end, 0, budget.epsilon, width=40, color="blue"))
    table.caption = "The last bar is the budget."
    return table


def _write_plot(
    what: "Prospect",
    budgets: Sequence["SiteBudget"],
    curves: Sequence[Sequence[tuple[int, float]]],
    path: Path,
) -> None:
    from hortus.pages.plots import Plot, write_plot

    alike: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for one, curve in zip(budgets, curves, strict=True):
        alike.setdefault(tuple(curve), []).append(one.site)
    drawn = Plot(
        "epsilon",
        f"ε at δ = {budgets[0].delta:g}",
        {", ".join(names): curve for curve, names in alike.items()},
        {f"budget {one.epsilon:.4g}": one.epsilon for one in budgets},
        "No noise, so no bound: ε is infinite.",
    )
    write_plot(drawn, path, f"{what.contract.name}: ε against rounds")


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else "–" if math.isnan(value) else f"{value:.4f}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
