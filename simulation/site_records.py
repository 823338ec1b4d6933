"""Every virtual site's records, as the plan's `simulation` section says."""

from collections.abc import Mapping

import numpy as np

from hortus.learning.data.partition import partition
from hortus.learning.data.records import Records, read_ids, read_records
from hortus.learning.tasks.kinds import TASKS
from hortus.protocol.plan import Plan
from hortus.runtime.errors import UsageError


def read_site_records(plan: Plan) -> dict[str, Records]:
    """Returns every virtual site's records, by name.

    Raises:
        UsageError: A file cannot be used, or a label is found at no site at all.
    """
    source, task = plan.simulation, TASKS.parse(plan.task)
    if source is None:
        raise UsageError(
            "the plan says nothing about whose records to use",
            where="simulation",
            remedy="Add `simulation:` with `sites:` or with `train:` and `partition:`.",
        )
    if source.sites is not None:
        records = {
            site: read_records(path, task, plan.privacy.unit_column)
            for site, path in source.sites.items()
        }
    else:
        assert source.train is not None  # noqa: S101 - the schema says so
        assert source.partition is not None  # noqa: S101 - the schema says so
        column = source.partition.column
        values = read_ids(source.train, column) if column else None
        whole = read_records(source.train, task, plan.privacy.unit_column)
        found = [task.group(value) for value in whole.values]
        groups = [group for group in found if group is not None]
        records = partition(
            whole,
            source.partition,
            plan.seed,
            values,
            np.array(groups, np.int64) if len(groups) == len(found) else None,
        )
    task.check_values([value for own in records.values() for value in own.values])
    return records


def check_count(plan: Plan, records: Mapping[str, Records]) -> None:
    """Refuses records that make fewer sites than the plan needs.

    Raises:
        UsageError: They do.
    """
    if len(records) < plan.cohort.minimum:
        raise UsageError(
            f"there are {len(records)} sites, the plan needs {plan.cohort.minimum}",
            where="cohort.minimum",
        )
