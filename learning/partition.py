"""One dataset cut into virtual sites."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hortus.learning.datasets import Records
from hortus.protocol.errors import UsageError
from hortus.protocol.plan import Partition

_TRIES = 100


def partition(
    records: Records, how: Partition, seed: int, column_values: Sequence[str] | None = None
) -> dict[str, Records]:
    """Cuts records into sites, the same for the same seed.

    Args:
        records: All records.
        how: The partitioner.
        seed: The plan's.
        column_values: For `kind: column`, each record's value.

    Raises:
        UsageError: A site would have no records.
    """
    if how.kind == "column":
        return _by_column(records, column_values or ())
    count = how.sites or 0
    if len(records) < count:
        raise UsageError(
            f"{len(records)} records cannot fill {count} sites", where="simulation.partition.sites"
        )
    generator = np.random.default_rng(seed)
    if how.kind == "iid":
        parts = np.array_split(generator.permutation(len(records)), count)
    else:
        parts = _dirichlet(records.labels, count, how.alpha, generator)
    width = len(str(count))
    return {
        f"site-{number:0{width}}": records.take(np.sort(part))
        for number, part in enumerate(parts, start=1)
    }


def _dirichlet(
    labels: NDArray[np.int64], sites: int, alpha: float, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draws each label's shares from Dirichlet(α) (Hsu et al. 2019), anew if a site stays empty."""
    for _ in range(_TRIES):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(sites)]
        for label in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == label))
            shares = generator.dirichlet(np.full(sites, alpha))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, piece in zip(parts, np.split(members, cuts), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) for part in parts]
        if all(len(part) for part in joined):
            return joined
    raise UsageError(
        f"with alpha {alpha:g} some of {sites} sites stay empty",
        where="simulation.partition.alpha",
        remedy="Raise alpha or lower sites.",
    )


def _by_column(records: Records, values: Sequence[str]) -> dict[str, Records]:
    named: dict[str, str] = {}
    for value in values:
        name = _site_name(value)
        if named.setdefault(name, value) != value:
            raise UsageError(
                f"{named[name]!r} and {value!r} would both be called {name!r}",
                where="simulation.partition.column",
            )
    array = np.array(values)
    return {
        name: records.take(np.flatnonzero(array == value)) for name, value in sorted(named.items())
    }


def _site_name(value: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:63]
    if not name:
        raise UsageError(f"{value!r} cannot name a site", where="simulation.partition.column")
    return name
