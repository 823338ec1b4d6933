"""How many units' gradients a plan's clipping norm cuts: for whoever rehearses a plan, and nobody else."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hortus.learning.data.records import Records
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract
from hortus.protocol.privacy import Noise

_MOST_UNITS = 256  # of all sites together


def share_cut(
    contract: Contract,
    workbench: Workbench,
    sites: Sequence[Records],
    adapter: NDArray[np.float32],
) -> float | None:
    """Returns the share of units whose gradient is longer than C; None where no fixed C cuts.

    Args:
        contract: The plan's binding part.
        workbench: The warm model.
        sites: Every site's records, of which some units are looked at.
        adapter: float32[d], where gradients are taken.
    """
    privacy = contract.privacy
    if privacy.clipping.kind != "flat" or privacy.noise is Noise.UNSAFE_NONE:
        return None
    clipping = FlatClipping().at(privacy.clipping_norm)
    size, norms = contract.training.micro_batch, []
    with workbench.holding(adapter):
        for records in sites:
            some = _some(records, max(1, _MOST_UNITS // len(sites)), privacy.max_records_per_unit)
            encoded = workbench.loader.encode(some)
            batches = workbench.loader.batches(encoded, np.arange(len(encoded)), size)
            norms.append(workbench.gradients.clipped_sum(batches, clipping).norms[0])
    return float(np.mean(np.concatenate(norms) > privacy.clipping_norm))


def _some(records: Records, most: int, most_of_unit: int | None) -> Records:
    """Returns the records of some units, and no more of each than join a step."""
    index = records.unit_index()
    units = np.random.default_rng(0).permutation(np.unique(index))[:most]
    rows = np.concatenate([np.flatnonzero(index == unit)[:most_of_unit] for unit in units])
    return records.take(rows)
