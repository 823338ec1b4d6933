"""Plan files: YAML in, `Plan` out, with paths made absolute and lists read in from their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hortus.planning import sections
from hortus.protocol.plan import Plan
from hortus.runtime.documents import Document
from hortus.runtime.errors import UsageError


def load_plan(path: Path, settings: Sequence[str] = ()) -> Plan:
    """Reads a plan file; relative paths in it are relative to its folder.

    Args:
        path: The file.
        settings: Values that replace the file's, each such as `training.rounds=3`. Paths in them are relative to
            the file's folder too.

    Raises:
        UsageError: It cannot be read; the error names the file or setting, the line or field, the value and a remedy.
    """
    document = Document.read(path, settings)
    return plan_of(document.fields(), path.resolve().parent, document)


def plan_of(fields: Mapping[str, Any], folder: Path, document: Document | None = None) -> Plan:
    """Makes a plan from fields as a plan file has them; resolves relative paths and fills in defaults.

    Args:
        fields: The plan's.
        folder: What relative paths are relative to.
        document: The file that they come from, if any.

    Raises:
        UsageError: Fields are wrong; the error names each.
    """
    located = sections.read_lists(fields, folder, document)
    _make_absolute(located, folder)
    return make_plan(located, document)


def make_plan(fields: Mapping[str, Any], document: Document | None = None) -> Plan:
    """Makes a plan from fields as a plan file has them; fills in defaults.

    Args:
        fields: The plan's.
        document: The file that they come from, if any.

    Raises:
        UsageError: Fields are wrong; the error names each.
    """
    completed, wrong = sections.complete(fields, document)
    try:
        plan = Plan.parse(completed, document or "plan")
    except UsageError as error:
        wrong.append(error)
    if wrong:
        raise UsageError("\n".join(map(str, wrong)))
    sections.check(plan)
    return plan


def dump_plan(plan: Plan) -> bytes:
    """Returns a plan as a file that loads to the same plan, whatever folder it is in."""
    fields = plan.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode()


def files_of(plan: Plan) -> dict[str, Path]:
    """Returns the files that a plan reads, by the field that names each."""
    files: dict[str, Path] = {}
    if plan.evaluation is not None:
        files["evaluation"] = plan.evaluation
    if plan.simulation is not None and plan.simulation.train is not None:
        files["simulation.train"] = plan.simulation.train
    for site, path in ((plan.simulation and plan.simulation.sites) or {}).items():
        files[f"simulation.sites.{site}"] = path
    return files


def _make_absolute(fields: dict[str, Any], folder: Path) -> None:
    if isinstance(fields.get("evaluation"), str):
        fields["evaluation"] = str(folder / fields["evaluation"])
    simulation = fields.get("simulation")
    if not isinstance(simulation, dict):
        return
    simulation = dict(simulation)
    if isinstance(simulation.get("train"), str):
        simulation["train"] = str(folder / simulation["train"])
    if isinstance(simulation.get("sites"), dict):
        simulation["sites"] = {
            site: str(folder / file) if isinstance(file, str) else file
            for site, file in simulation["sites"].items()
        }
    fields["simulation"] = simulation
