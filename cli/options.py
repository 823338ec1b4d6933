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
Trained = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|ADAPTER", help="The run's folder, finished or not, or an adapter's folder."
    ),
]
Which = Annotated[
    str,
    typer.Option(
        metavar="last|best|ROUND",
        help="Which of a run's adapters: of the last round, of the best by the plan's public evaluation, or of the "
        "round with a number. A run keeps its last two rounds and its best one.",
    ),
]
BaseModel = Annotated[
    Path | None,
    typer.Option("--model", help="Folder of the base model, if it is not where the plan says."),
]
MaxNewTokens = Annotated[
    int, typer.Option(min=1, help="A written answer ends after this many tokens.")
]
Temperature = Annotated[
    float,
    typer.Option(min=0.0, help="0 writes the likeliest token each time; above 0 tokens are drawn."),
]
Seed = Annotated[int, typer.Option(help="What is drawn follows from it.")]
