"""`hortus approve`: the plans that a site takes part in, who approved them, and when."""

import getpass
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hortus.cli.display import terminal
from hortus.cli.plan import covered
from hortus.cli.settings import read_plan
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Policy
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import Refused, UsageError

if TYPE_CHECKING:
    from hortus.client.site.folder import Site
    from hortus.simulation.prospect import Prospect


def approve(
    site: Annotated[Path, typer.Argument(help="The site's folder.")],
    plan: Annotated[Path | None, typer.Argument(help="The plan file.")] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Name of whoever decides. Default: the operating system's user."),
    ] = None,
    withdraw: Annotated[
        str | None,
        typer.Option(
            help="Withdraw an approval: the plan's name, the first digits of its hash, or its file.",
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option(help="Reason for the withdrawal; it stays in the ledger.")
    ] = "no reason given",
    list_: Annotated[
        bool,
        typer.Option("--list", help="List approvals and withdrawals, with names and times."),
    ] = False,
) -> None:
    """Approve a plan at a site. A signed ledger entry records who approved it, when, and for how much.

    Everything that the site would check later is checked first: policy, budget, unit, base model, and the records
    with the plan's columns and labels. A plan that the site would refuse, or could not pay for to the end, is not
    approved (exit code 3).

    The entry, including the name, is part of the evidence that an auditor receives. A running agent obeys it at once.
    """
    if (plan is not None) + (withdraw is not None) + list_ != 1:
        raise UsageError("name exactly one of: a plan file, --list, --withdraw PLAN", where="PLAN")
    if plan is not None:
        _approve(site, plan, by)
    elif withdraw is not None:
        _withdraw(site, withdraw, by, reason)
    else:
        _list(site)


def operator_name(by: str | None) -> str:
    """Returns the name of whoever decides: the one given, or the operating system's user.

    Raises:
        UsageError: The operating system has no name for the user.
    """
    if by is not None:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UsageError(
            "the operating system has no name for this user",
            where="--by",
            remedy="Name whoever decides.",
        ) from error


def _approve(directory: Path, path: Path, by: str | None) -> None:
    loaded = read_plan(path, site=directory)
    operator = operator_name(by)

    from hortus.client.consent.approval import check_whole, record
    from hortus.client.site.folder import Site, keep_model
    from hortus.simulation.prospect import doubts_about, prospect

    console = terminal()
    with terminal(stderr=True).status("choosing noise…"):
        what = prospect(loaded, path.resolve().parent, loaded.cohort.minimum)
    with Site(directory, clock=time.time, model=what.model_path, alone=True) as site:
        contract, refusal = what.contract, None
        try:
            check_whole(site, contract, what.encoding)
        except Refused as error:
            refusal = error
        console.print(_terms_table(site.policy, contract, refusal))
        console.print(_budgets_table(site, what))
        for doubt in doubts_about(what, site.records(contract).unit_count):
            console.print(f"Look again: {doubt}", style="yellow")
        if refusal is not None:
            raise refusal
        if contract.digest() in site.mandate.approved:
            before = site.ledger.consents()[contract.digest()]
            console.print(
                f"{site.name} has already approved it in entry {before.seq}; nothing has changed."
            )
            return
        keep_model(site.files, contract, what.model_path)
        entry = record(site, contract, operator)
    console.print(
        f"entry {entry.seq}: {site.name} takes part in {contract.name} ({contract.digest()}), "
        f"approved by {operator}"
    )


def _terms_table(policy: Policy, contract: Contract, refusal: Refused | None) -> Table:
    table = Table(
        box=None, show_header=False, pad_edge=False, title=contract.name, title_justify="left"
    )
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("contract", contract.digest())
    table.add_row("protects", f"one {contract.privacy.unit}, added or removed")
    table.add_row("counts on", _counted_on(policy, contract))
    if refusal is None:
        table.add_row("policy", "allows it; base model and records fit")
    else:
        table.add_row("policy", Text(f"refuses it: {refusal.where or contract.name}", style="red"))
    return table


def _counted_on(policy: Policy, contract: Contract) -> str:
    """Says whose noise a plan's promise relies on, and how many sites the policy assumes to be honest."""
    cohort = contract.cohort
    if contract.privacy.noise is Noise.UNSAFE_NONE:
        return "nothing: the plan adds no noise and promises nothing to anybody"
    if policy.unsafe_seeded_noise:
        return "noise that others could subtract (policy.yaml: unsafe_seeded_noise): no promise"
    if contract.privacy.noise is Noise.LOCAL:
        return "this site's own noise alone"
    return (
        f"the noise of {cohort.min_honest} of {cohort.minimum} sites; policy.yaml assumes at most "
        f"{policy.most_honest(cohort.minimum)} of them to be honest"
    )


def _budgets_table(site: "Site", what: "Prospect") -> Table:
    """What each budget has spent and would have spent, at the plan's own noise; no sum costs more."""
    from hortus.client.consent.approval import charged_steps
    from hortus.privacy.accounting.events import GaussianEvent
    from hortus.simulation.prospect import budgets_at

    contract = what.contract
    _, place = site.foresee(contract)
    charged, noise = charged_steps(site, contract, place), contract.privacy.noise_multiplier
    per_round = contract.training.releases_per_round
    event = None if noise is None else GaussianEvent(contract.training.sampling_rate, noise)
    left = max(1, -(-(contract.steps - charged) // per_round))
    cost = replace(what.cost, event=event, rounds=left)
    table = Table("budget", "ε spent", "after", "limit", "covers", box=None, pad_edge=False)
    table.caption_justify = "left"
    table.caption = f"At δ = {site.policy.budget.delta:g}."
    if charged:
        table.caption += (
            f" {charged} releases were already charged for this plan; {left} rounds are left."
        )
    for one in budgets_at(site, contract):
        forecast = cost.forecast(one)
        after = "∞" if forecast.after is None else f"{forecast.after.epsilon:.4f}"
        told = Text(covered(cost, forecast), style="green" if forecast.rounds == left else "red")
        table.add_row(one.site, f"{forecast.before:.4f}", after, f"{one.epsilon:g}", told)
    return table


def _withdraw(directory: Path, named: str, by: str | None, reason: str) -> None:
    from hortus.client.consent.approval import withdraw
    from hortus.client.operator.accounts import opened_ledger

    operator = operator_name(by)
    if Path(named).is_file():
        from hortus.planning.prepare import prepare

        contract, _ = prepare(read_plan(Path(named), site=directory), Path(named).resolve().parent)
        named = contract.digest()
    with opened_ledger(directory, time.time) as (ledger, _):
        entry, body = withdraw(ledger, named, operator, reason)
    terminal().print(
        f"entry {entry.seq}: {operator} has withdrawn {body.name} ({body.plan}): {reason}. "
        "The site refuses it from the next step on."
    )


def _list(directory: Path) -> None:
    from hortus.client.consent.approval import consented
    from hortus.client.operator.accounts import opened_ledger

    with opened_ledger(directory, time.time) as (ledger, _):
        found = consented(ledger)
    console = terminal()
    if not found:
        console.print("No plan has been approved here.")
        return
    console.print(consents_table([one.line() for one in found]))


def consents_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A table of approvals and withdrawals, each as `Consented.line` returns it."""
    table = Table("entry", "when", "plan", "hash", "", "ε", "δ", "unit", box=None, pad_edge=False)
    for line in lines:
        when = f"{datetime.fromisoformat(line['time']):%Y-%m-%d %H:%M} UTC"
        row = (str(line["entry"]), when, line["name"], line["plan"][:16])
        if "reason" in line:
            said = f"withdrawn by {line['operator']}: {line['reason']}"
            table.add_row(*row, said, "", "", "")
            continue
        said = f"approved by {line['operator']}" if line["operator"] else "by auto_approve"
        cost = "∞" if line["epsilon"] is None else f"{line['epsilon']:.4g}"
        table.add_row(*row, said, cost, f"{line['delta']:g}", line["unit"])
    return table
