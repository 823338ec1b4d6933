"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from hortus.runtime.logs import Form

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]
PartyFolder = Annotated[Path, typer.Argument(help="A site's folder, or the server's.")]
PlanFile = Annotated[Path, typer.Argument(help="The plan file.")]
SimulatedPlan = Annotated[Path, typer.Argument(help="A plan file with a `simulation` section.")]
Force = Annotated[
    bool, typer.Option("--force", help="Start over: remove the run that the folder holds.")
]
LogFormat = Annotated[Form, typer.Option(help="Format of log lines.")]
