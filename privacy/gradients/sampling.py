"""Which records a private step computes with: a sampler draws units, and some records stand for a unit with many."""

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.gradients.samplers.base import Sampler
from hortus.privacy.gradients.samplers.poisson import PoissonSampler
from hortus.privacy.noise.randomness import Stream

_POISSON = PoissonSampler()


def sample_records(
    units: NDArray[np.int64],
    rate: float,
    cap: int | None,
    stream: Stream,
    sampler: Sampler = _POISSON,
) -> NDArray[np.int64]:
    """Draws the units that join, and up to this many records of each.

    A joining unit with more records than the cap is stood for by a subset of that size, uniform
    among all such subsets: its records get independent 64-bit keys, and the smallest keys win. (Two
    equal keys, which favour the earlier record, occur with probability below n²·2⁻⁶⁵.)

    Args:
        units: int64[n], the number of each record's unit, from 0 without gaps.
        rate: q; each unit joins with this probability at most, independently.
        cap: Most records of a unit; None: all.
        stream: The coins and keys of this step, used for nothing else.
        sampler: Draws who joins.

    Returns:
        int64[m], the positions of the records drawn, ascending.
    """
    joins = sampler.joining(int(units.max(initial=-1)) + 1, rate, stream)
    candidates = np.flatnonzero(joins[units])
    if cap is None:
        return candidates
    owners = units[candidates]
    order = np.lexsort((stream.uint64(len(candidates)), owners))
    runs = owners[order]
    rank = np.arange(len(runs)) - np.searchsorted(runs, runs)
    return np.sort(candidates[order[rank < cap]])
