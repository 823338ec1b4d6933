"""Plan files: YAML in, `Plan` out, with paths made absolute and label files read in."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hortus.protocol.errors import UsageError
from hortus.protocol.files import load_yaml, read_text, validation_error
from hortus.protocol.plan import Plan


def load_plan(path: Path) -> Plan:
    """Reads a plan file; relative paths in it are relative to its folder.

    Raises:
        UsageError: It cannot be read; names the file, the line or field, the value and a remedy.
    """
    fields = load_yaml(path)
    folder = path.resolve().parent
    task = fields.get("task")
    if isinstance(task, dict) and isinstance(task.get("labels"), str):
        fields["task"] = task | {"labels": _read_labels(folder / task["labels"])}
    _make_absolute(fields, folder)
    try:
        return Plan.model_validate(fields)
    except ValidationError as error:
        raise validation_error(path, error, Plan) from error


def dump_plan(plan: Plan) -> bytes:
    """Returns a plan as a file that loads to the same plan, whatever folder it is in."""
    fields = plan.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode()


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


def _read_labels(path: Path) -> list[str]:
    try:
        text = read_text(path).removeprefix("\ufeff")
    except UsageError as error:
        raise UsageError(
            error.problem,
            where=f"task.labels: {error.where}",
            remedy="Give a list of labels, or the path of a UTF-8 file with one label a line.",
        ) from error
    # Not splitlines: U+2028 and its like are characters of a label.
    return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
