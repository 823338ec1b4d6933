"""Poisson sampling of privacy units, and of a unit's records where it has many."""

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.noise.randomness import Stream


def sample_records(
    units: NDArray[np.int64], rate: float, cap: int | None, stream: Stream
) -> NDArray[np.int64]:
    """Lets each unit join with one probability, and draws up to so many records of those that do.

    A joining unit with more records than the cap is stood for by a subset of that size, uniform
    among all such subsets: its records get independent 64-bit keys, and the smallest keys win. (Two
    equal keys, which favour the earlier record, occur with probability below n²·2⁻⁶⁵.)

    Args:
        units: int64[n], the number of each record's unit, from 0 without gaps.
        rate: q; each unit joins with this probability, independently.
        cap: Most records of a unit; None: all.
        stream: The coins and keys of this step, used for nothing else.

    Returns:
        int64[m], the positions of the records drawn, ascending.
    """
    joins = stream.bernoulli(rate, int(units.max(initial=-1)) + 1)
    candidates = np.flatnonzero(joins[units])
    if cap is None:
        return candidates
    owners = units[candidates]
    order = np.lexsort((stream.uint64(len(candidates)), owners))
    runs = owners[order]
    rank = np.arange(len(runs)) - np.searchsorted(runs, runs)
    return np.sort(candidates[order[rank < cap]])
