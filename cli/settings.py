"""`--set`: values instead of a plan file's, for a run of one's own; and a plan read with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hortus.planning.plan_file import files_of, load_plan
from hortus.protocol.plan import Plan
from hortus.runtime.errors import UsageError

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Use a value instead of the plan's, such as training.rounds=3. May be repeated.",
    ),
]


def read_plan(
    path: Path, settings: Sequence[str] | None = None, *, needs: Sequence[str] = ()
) -> Plan:
    """Reads a plan before anything loads that takes seconds: a slip is answered at once.

    Args:
        path: The plan file.
        settings: What `--set` was given.
        needs: The fields whose files have to be there, or their sections: `evaluation`, `simulation`.

    Raises:
        UsageError: The plan cannot be used, or its base model or a file that is needed is not there.
    """
    from hortus.learning.models.folder import resolve_model

    plan = load_plan(path, settings or ())
    resolve_model(plan.model, path.resolve().parent)
    for field, file in files_of(plan).items():
        if field.partition(".")[0] in needs and not file.exists():
            raise UsageError("there is no such file or folder", where=f"{field}: {file}")
    return plan
