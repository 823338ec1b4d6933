"""`hortus approve`, `server` and `client`: what operators run."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from hortus.cli.display import terminal
from hortus.protocol.consortium import ServerFiles, SiteConfig, SiteFiles
from hortus.protocol.logs import Form, configure_logging
from hortus.protocol.plan import Contract, Noise
from hortus.protocol.plan_file import load_plan
from hortus.protocol.policy import Policy

LogFormat = Annotated[Form, typer.Option(help="How log lines are written.")]
PlanFile = Annotated[Path, typer.Argument(help="The plan file.")]
SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]


def approve(site: SiteFolder, plan: PlanFile) -> None:
    """Approve a plan at a site: its contract's hash goes into policy.yaml.

    A plan that the policy refuses anyway is not approved: it says why.

    The site's records are read with the plan's columns and labels, so that what does not fit is said
    here: an agent's log never says it, since it may quote records.
    """
    loaded = load_plan(plan)  # before what takes seconds to import: a slip is answered at once

    from hortus.client.consent import check_contract
    from hortus.client.site import keep_contract, keep_model
    from hortus.learning.data.records import read_records
    from hortus.server.prepare import prepare

    contract, model = prepare(loaded, plan.resolve().parent)
    files = SiteFiles(site)
    config = SiteConfig.load(files.config)
    read_records(files.directory / config.data, contract.task, contract.privacy.unit_column)
    policy = Policy.load(files.policy)
    approved = tuple(dict.fromkeys((*policy.approved_plans, contract.digest())))
    policy = policy.model_copy(update={"approved_plans": approved})
    check_contract(policy, contract, names_model=config.model is not None)
    keep_model(files, contract, model)
    keep_contract(files, contract)  # first: a running agent prepares for what it finds approved
    policy.save(files.policy)
    console = terminal()
    console.print(f"{config.site} takes part in {contract.name} ({contract.digest()})")
    console.print(_counted_on(policy, contract))


def _counted_on(policy: Policy, contract: Contract) -> str:
    """Says whose noise a plan's promise counts on, and how many sites the policy takes to be honest."""
    cohort = contract.cohort
    if contract.privacy.noise is Noise.UNSAFE_NONE:
        return "It promises nothing to anybody: it adds no noise."
    if contract.privacy.noise is Noise.LOCAL:
        return "Its promise counts on this site's own noise alone."
    return (
        f"Its promise counts on the noise of {cohort.min_honest} of {cohort.minimum} sites; policy.yaml "
        f"takes at most {policy.most_honest(cohort.minimum)} of them to be honest."
    )


def server(
    plan: PlanFile,
    home: Annotated[
        Path | None, typer.Option(help="The server's folder. Default: server, beside the plan.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/NAME beside the plan.")
    ] = None,
    log_format: LogFormat = Form.TEXT,
    force: Annotated[
        bool,
        typer.Option("--force", help="Start over where the folder holds a run: remove that one."),
    ] = False,
) -> None:
    """Serve a plan: wait for the sites, and train until all rounds are done.

    Started again, it resumes after the last secure sum.
    """
    loaded = load_plan(plan)

    from hortus.cli.display import RoundsDisplay, absences_table
    from hortus.cli.export import tell_kept
    from hortus.server.absences import absences
    from hortus.server.operate import run_server
    from hortus.server.report import report_run

    console = terminal()
    files = ServerFiles(home or plan.parent / "server")
    folder = out or plan.parent / "runs" / loaded.name
    configure_logging(folder / "server.log", log_format)
    with RoundsDisplay(console, loaded.name, loaded.training.rounds) as display:
        store = run_server(
            loaded,
            plan,
            files,
            folder,
            lambda record: display.add(record, {}),
            display.say,
            force=force,
            on_stop=lambda: tell_kept(console, folder, lambda: report_run(folder, loaded)),
        )
    if away := absences(store.departures, store.rounds):
        console.print(absences_table(away))
    console.print(f"adapter (PEFT)  {folder / 'adapter'}")
    console.print(f"report          {report_run(folder, loaded)}")


def client(site: SiteFolder, log_format: LogFormat = Form.TEXT) -> None:
    """Run a site: it answers the server until it is told to stop (Ctrl-C or SIGTERM).

    It then leaves in an orderly way: a step under way is finished, and the server is told. Its log is
    on standard error and in SITE_DIR/logs/agent.log; neither holds anything that depends on a record.
    """
    from hortus.client.operate import run_site

    files = SiteFiles(site)
    SiteConfig.load(files.config)  # before a folder that is no site's gets a log
    configure_logging(files.log, log_format)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    run_site(site, stopped.is_set)
