"""`hortus status`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hortus.cli.approve import consents_table
from hortus.cli.display import echo_json, terminal
from hortus.parties.expiry import Urgency
from hortus.parties.folders import ServerFiles, open_party


def status(
    directory: Annotated[
        Path, typer.Argument(help="The folder of a site, of the server or of a run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show certificates, roster, budgets, approvals, the last rounds, and which sites left and why."""
    told = _gather(directory)
    console = terminal()
    if as_json:
        echo_json(told)
        return
    console.print(f"{told['kind']} {told['name']}  {told.get('state', '')}", style="bold")
    if told["kind"] == "run":
        _show_run(console, told)
    else:
        _show_party(console, told)


def _gather(directory: Path) -> dict[str, Any]:
    now = datetime.now(UTC)
    if (directory / "contract.json").exists():
        from hortus.server.run.status import run_status

        return run_status(directory)
    files = open_party(directory)
    if isinstance(files, ServerFiles):
        from hortus.server.run.status import server_status

        return server_status(files, now)
    from hortus.client.operator.status import site_status

    return site_status(files, now)


def _show_party(console: Console, told: dict[str, Any]) -> None:
    if (connection := told.get("connection")) is not None:
        console.print(
            f"server       {connection['server']}: {connection['state']} since {connection['since']}",
            soft_wrap=True,
        )
        if connection["problem"]:
            console.print(f"             {connection['problem']}", style="yellow")
            console.print(f"             {connection['remedy']}", style="yellow")
    console.print(f"fingerprint  {told['fingerprint']}", soft_wrap=True)
    roster = told["roster"]
    if roster is None:
        console.print("roster       no party is pinned yet")
    else:
        console.print(f"roster       {', '.join(roster['sites']) or 'no sites yet'}")
        console.print(f"             {roster['fingerprint']}", soft_wrap=True)
    for party, time in told["contacts"].items():
        console.print(f"last contact with {party}: {time}", soft_wrap=True)
    certificates = Table("TLS certificate of", "expires", "", box=None)
    for line in told["certificates"]:
        far = line["urgency"] == Urgency.FAR
        style = "red" if line["urgency"] in (Urgency.URGENT, Urgency.EXPIRED) else "yellow"
        remedy = "" if far else f"{line['urgency']}: {line['remedy']}"
        certificates.add_row(
            line["whose"], line["expires"][:10], remedy, style=None if far else style
        )
    console.print(certificates)
    if told["kind"] == "site":
        _show_site(console, told)


def _show_site(console: Console, told: dict[str, Any]) -> None:
    _show_anchor(console, told)
    datasets = Table("dataset", "unit", "ε spent", "limit", "", box=None)
    for line in told["datasets"]:
        said = [f"frozen: {line['frozen']}"] if line["frozen"] else []
        if line["disjoint"]:
            said.append(f"disjoint, says {line['disjoint']['operator']}")
        row = (line["dataset"][:16], line["unit"], _epsilon(line["epsilon_spent"]))
        datasets.add_row(*row, f"{line['epsilon_limit']:g}", "; ".join(said))
    console.print(datasets)
    if told["approvals"]:
        approvals = consents_table(told["approvals"])
        approvals.title, approvals.title_justify = "takes part in", "left"
        console.print(approvals)
    else:
        console.print("takes part in no plan")
    rounds = Table("run", "round", "released", "ε after", box=None)
    for line in told["rounds"]:
        after = _epsilon(line["epsilon"])
        rounds.add_row(line["run"][:8], str(line["round"]), line["time"], after)
    console.print(rounds)
    console.print(f"ε at δ = {told['delta']:g}")


def _show_anchor(console: Console, told: dict[str, Any]) -> None:
    """Reminds the operator of an anchor, without which an older copy of the ledger may go unnoticed."""
    anchor = told["anchor"]
    if anchor is None:
        if told["entries"]:
            console.print(
                "anchor       none: only this folder and the server show how long the ledger is. Keep its head on "
                "another machine's disk: hortus budget anchor SITE_DIR FILE, then name FILE as `anchor` in site.yaml",
                style="yellow",
                soft_wrap=True,
            )
    elif anchor["contained"]:
        said = f"entry {anchor['entry']} of {told['entries']}, in {anchor['file']}"
        console.print(f"anchor       {said}", soft_wrap=True)
    else:
        said = f"the ledger does not contain entry {anchor['entry']} of {anchor['file']}: it is an older copy"
        console.print(f"anchor       {said}", style="red", soft_wrap=True)


def _show_run(console: Console, told: dict[str, Any]) -> None:
    console.print(f"plan    {told['plan']}")
    console.print(f"rounds  {told['rounds_finished']} of {told['rounds_planned']}")
    if (attendance := told["attendance"]) is not None:
        console.print(f"now     {attendance['now']}")
        present = Table("site", "is", box=None)
        for name, line in attendance["sites"].items():
            present.add_row(name, line["state"])
        console.print(present)
    rounds = Table("round", "sites", "attempts", "ε claimed", box=None)
    for line in told["rounds"]:
        sites = ", ".join(line["sites"])
        rounds.add_row(str(line["round"]), sites, str(line["attempts"]), _epsilon(line["epsilon"]))
    console.print(rounds)
    away = Table("from round", "refused or left", "why", "now", box=None)
    for line in told["absences"]:
        now = "away" if line["back"] is None else f"came back in round {line['back']}"
        away.add_row(str(line["since"]), line["site"], line["reason"], now)
    console.print(away)


def _epsilon(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3f}"
