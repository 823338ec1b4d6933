"""`--set`: replaces values of a plan file for one's own run, and reads the plan with them."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

from hortus.parties.folders import SiteFiles
from hortus.planning.plan_file import files_of, load_plan
from hortus.protocol.plan import Plan
from hortus.protocol.policy import Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.registry import allow_plug_ins
from hortus.simulation.engines.kinds import engine_of

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace one of the plan's values, such as training.rounds=3. Can be repeated.",
    ),
]


def read_plan(
    path: Path,
    settings: Sequence[str] | None = None,
    *,
    needs: Sequence[str] = (),
    site: Path | None = None,
) -> Plan:
    """Reads a plan before anything loads that takes seconds, so that a slip is reported at once.

    Args:
        path: The plan file.
        settings: What `--set` was given.
        needs: The fields, or their sections, whose files must exist: `evaluation`, `simulation`.
        site: The site's folder for which it is read: third parties' kinds are loaded only as its policy allows.

    Raises:
        UsageError: The plan cannot be used, or its base model or a file that it needs is missing.
    """
    from hortus.learning.models.folder import resolve_model

    allow_kinds(site)
    plan = load_plan(path, settings or ())
    if site is None:  # a site knows no simulation engine, and its policy allows none
        engine_of(plan)
    resolve_model(plan.model, path.resolve().parent)
    for field, file in files_of(plan).items():
        if field.partition(".")[0] in needs and not file.exists():
            raise UsageError("there is no such file or folder", where=f"{field}: {file}")
    return plan


def allow_kinds(site: Path | None) -> None:
    """Lets this process load the kinds that others have written.

    Args:
        site: The site's folder, beside whose records and keys they would run: those that its policy lists, and
            none where it cannot be read. None: all that are installed.
    """
    packages: Collection[str] | None = None
    if site is not None:
        try:
            packages = Policy.load(SiteFiles(site).policy).plug_ins
        except UsageError:
            packages = ()  # what is wrong is said by whoever needs the policy
    allow_plug_ins(packages)
