"""`--set`: replaces values of a plan file for one's own run, and reads the plan with them."""

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
        help="Replace one of the plan's values, such as training.rounds=3. Can be repeated.",
    ),
]


def read_plan(
    path: Path, settings: Sequence[str] | None = None, *, needs: Sequence[str] = ()
) -> Plan:
    """Reads a plan before anything loads that takes seconds, so that a slip is reported at once.

    Args:
        path: The plan file.
        settings: What `--set` was given.
        needs: The fields, or their sections, whose files must exist: `evaluation`, `simulation`.

    Raises:
        UsageError: The plan cannot be used, or its base model or a file that it needs is missing.
    """
    from hortus.learning.models.folder import resolve_model

    plan = load_plan(path, settings or ())
    resolve_model(plan.model, path.resolve().parent)
    for field, file in files_of(plan).items():
        if field.partition(".")[0] in needs and not file.exists():
            raise UsageError("there is no such file or folder", where=f"{field}: {file}")
    return plan
