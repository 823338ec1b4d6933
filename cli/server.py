"""`hortus server`."""

from pathlib import Path
from typing import Annotated

import typer

from hortus.cli.display import terminal
from hortus.cli.options import Force, LogFormat, PlanFile
from hortus.cli.settings import read_plan
from hortus.runtime.logs import Form, configure_logging


def server(
    plan: PlanFile,
    home: Annotated[
        Path | None, typer.Option(help="The server's folder. Default: server, beside the plan.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/NAME beside the plan.")
    ] = None,
    log_format: LogFormat = Form.TEXT,
    force: Force = False,
) -> None:
    """Serve a plan: wait for the sites and train until all rounds are done.

    To resume after the last secure sum, run the same command again.
    """
    loaded = read_plan(plan, needs=("evaluation",))

    from hortus.cli.display import RoundsDisplay, absences_table
    from hortus.cli.export import tell_kept
    from hortus.parties.folders import ServerFiles
    from hortus.server.operate import run_server
    from hortus.server.run.absences import absences
    from hortus.server.web.report import report_deployment

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
            on_stop=lambda: tell_kept(console, folder, lambda: report_deployment(folder, loaded)),
        )
    if away := absences(store.departures, store.rounds):
        console.print(absences_table(away))
    console.print(f"adapter (PEFT)  {folder / 'adapter'}")
    console.print(f"report          {report_deployment(folder, loaded)}")
