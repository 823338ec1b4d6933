"""`hortus init`, `approve`, `server`, `client` and `audit`: what operators run."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hortus.protocol.consortium import ServerConfig, create_consortium
from hortus.protocol.policy import Budget, Policy
from hortus.simulation.demo import write_example

_DEFAULT_AGGREGATION = "127.0.0.1:9443"
_DEFAULT_SUPERLINK = "127.0.0.1:9092"
PlanFile = Annotated[Path, typer.Argument(help="The plan file.")]
SiteFolder = Annotated[Path, typer.Argument(help="A site's folder.")]


def init(
    directory: Annotated[Path, typer.Argument(help="A new folder.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="NAME=DATA for each site. None: three sites with synthetic data."),
    ] = None,
    epsilon: Annotated[float, typer.Option(help="Each site's budget.")] = 8.0,
    delta: Annotated[float, typer.Option(help="The δ at which ε is stated.")] = 1e-5,
    aggregation: Annotated[
        str, typer.Option(help="Where sites find the sums.")
    ] = _DEFAULT_AGGREGATION,
    superlink: Annotated[str, typer.Option(help="Where sites find Flower.")] = _DEFAULT_SUPERLINK,
) -> None:
    """Make keys, certificates, roster, policies and an example plan of a consortium.

    All on one machine, to try it out; each sites/NAME folder is then moved to its site.
    """
    console = Console()
    data = write_example(directory) if not site else dict(_split(item) for item in site)
    policy = Policy(budget=Budget(epsilon=epsilon, delta=delta))
    consortium = create_consortium(
        directory,
        data=data,
        policies=dict.fromkeys(data, policy),
        server=ServerConfig(aggregation=aggregation, superlink=superlink),
        clock=time.time,
    )
