"""`hortus init`, `approve`, `server` and `client`: what operators run."""

import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hortus.protocol.consortium import Consortium, ServerConfig, ServerFiles, SiteFiles
from hortus.protocol.consortium import create_consortium as create
from hortus.protocol.errors import UsageError
from hortus.protocol.plan import RECORD
from hortus.protocol.plan_file import load_plan
from hortus.protocol.policy import Budget, Policy

PlanFile = Annotated[Path, typer.Argument(help="The plan file.")]
SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]


def init(
    directory: Annotated[Path, typer.Argument(help="A new folder.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DATA, for each site. Without any: three sites with made-up data."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Every site's budget ε.")] = 8.0,
    delta: Annotated[float, typer.Option(help="The δ at which ε is stated.")] = 1e-5,
    unit: Annotated[
        str, typer.Option(help="Whom it protects: a record, or a column such as patient_id.")
    ] = RECORD,
    aggregation: Annotated[
        str, typer.Option(help="Host and port of the aggregation service.")
    ] = "127.0.0.1:9443",
    superlink: Annotated[
        str, typer.Option(help="Host and port of Flower's SuperLink.")
    ] = "127.0.0.1:9092",
) -> None:
    """Make keys, certificates, roster, policies and an example plan for a consortium.

    Everything on one machine, to try it out: each sites/NAME folder then moves to its site.
    """
    from hortus.simulation.demo import write_example

    console = Console()
    data = dict(_parse_site(item) for item in site or ())
    policy = Policy(budget=Budget(epsilon=epsilon, delta=delta, unit=unit))
    addresses = ServerConfig(aggregation=aggregation, superlink=superlink)
    data, plan = (data, None) if data else write_example(directory)
    consortium = create(directory, data, dict.fromkeys(data, policy), addresses, datetime.now(UTC))
    if plan is not None:
        (directory / "plan.yaml").write_text(plan, encoding="utf-8")
    _tell_next(console, consortium)


def approve(site: SiteFolder, plan: PlanFile) -> None:
    """Approve a plan at a site: its contract's hash goes into policy.yaml."""
    from hortus.server.prepare import prepare

    contract, _ = prepare(load_plan(plan), plan.resolve().parent)
    files = SiteFiles(site)
    policy = Policy.load(files.policy)
    approved = tuple(dict.fromkeys((*policy.approved_plans, contract.digest())))
    policy.model_copy(update={"approved_plans": approved}).save(files.policy)
    Console().print(f"{site.name} takes part in {contract.name} ({contract.digest()})")


def server(
    plan: PlanFile,
    home: Annotated[
        Path | None, typer.Option(help="The server's folder. Default: server, beside the plan.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/NAME beside the plan.")
    ] = None,
) -> None:
    """Serve a plan: wait for the sites, and train until all rounds are done.

    Started again, it goes on after the last finished round.
    """
    from hortus.cli.display import RoundsDisplay, departures_table
    from hortus.server.operate import run_server

    console = Console()
    loaded = load_plan(plan)
    files = ServerFiles(home or plan.parent / "server")
    folder = out or plan.parent / "runs" / loaded.name
    with RoundsDisplay(console, loaded.name, loaded.training.rounds) as display:
        store = run_server(loaded, plan, files, folder, lambda record: display.add(record, {}))
    if store.departures:
        console.print(departures_table(store.departures))
    console.print(f"adapter (PEFT)  {folder / 'adapter'}")


def client(site: SiteFolder) -> None:
    """Run a site: it answers the server until it is told to stop (Ctrl-C or SIGTERM)."""
    from hortus.client.operate import run_site

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    Console().print(f"{site.name} is waiting for the server; Ctrl-C stops it.")
    run_site(site, stopped.is_set)


def _parse_site(item: str) -> tuple[str, Path]:
    name, found, path = item.partition("=")
    if not found or not Path(path).exists():
        raise UsageError(
            f"{item!r} is not NAME=DATA with an existing file or folder", where="--site"
        )
    return name, Path(path).resolve()


def _tell_next(console: Console, consortium: Consortium) -> None:
    directory = consortium.directory
    console.print(f"[bold]{directory}[/] holds a consortium of {', '.join(consortium.sites)}.")
    console.print("Each site approves the plan:")
    for name in consortium.sites:
        console.print(f"  hortus approve {consortium.site(name).directory} {directory}/plan.yaml")
    console.print("and then, each in a terminal of its own:")
    console.print(f"  hortus server {directory}/plan.yaml")
    for name in consortium.sites:
        console.print(f"  hortus client {consortium.site(name).directory}")
