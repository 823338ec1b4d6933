"""One dataset cut into virtual sites."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hortus.learning.data.records import Records
from hortus.protocol.plan import Partition
from hortus.runtime.errors import UsageError
from hortus.runtime.names import SERVER, nearest_name

_TRIES = 100
_MISSING = {
    "none",
    "null",
    "nan",
    "nat",
    "n-a",
    "undefined",
}  # what programs print where there is no value


def partition(
    records: Records,
    how: Partition,
    seed: int,
    column_values: Sequence[str] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Records]:
    """Cuts records into sites, the same for the same seed; no unit of privacy is at two of them.

    Args:
        records: All records.
        how: The partitioner.
        seed: The plan's.
        column_values: For `kind: column`, each record's value.
        groups: int64 (n,), each record's class, which `kind: dirichlet` spreads; None: there are none.

    Raises:
        UsageError: A site would have no records, a unit would be at two sites, or there are no classes to spread.
    """
    if how.kind == "column":
        return _by_column(records, column_values or ())
    count = how.sites or 0
    unit = records.unit_index()
    labels = _main_labels(unit, np.zeros_like(unit) if groups is None else groups)
    if len(labels) < count:
        noun = "units" if records.units else "records"
        raise UsageError(
            f"{len(labels)} {noun} cannot fill {count} sites", where="simulation.partition.sites"
        )
    if how.kind == "dirichlet" and groups is None:
        raise UsageError(
            "the plan's task has no classes to spread",
            where="simulation.partition.kind",
            remedy="Use iid, or column.",
        )
    generator = np.random.default_rng(seed)
    if how.kind == "iid":
        parts = np.array_split(generator.permutation(len(labels)), count)
    else:
        parts = _dirichlet(labels, count, how.alpha, generator)
    width = len(str(count))
    return {
        f"site-{number:0{width}}": records.take(np.flatnonzero(np.isin(unit, part)))
        for number, part in enumerate(parts, start=1)
    }


def _main_labels(unit: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns each unit's most frequent label, int64 (units,); the smallest of equals."""
    pairs, counts = np.unique(np.stack([unit, labels]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    _, first = np.unique(pairs[0][order], return_index=True)
    main: NDArray[np.int64] = pairs[1][order][first]
    return main


def _dirichlet(
    labels: NDArray[np.int64], sites: int, alpha: float, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draws each label's shares from Dirichlet(α) (Hsu et al. 2019), anew if a site stays empty.

    Args:
        labels: int64 (units,), each unit's main label.
        sites: Number of sites.
        alpha: α.
        generator: Draws.

    Returns:
        For each site the numbers of its units.
    """
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
    unit = records.unit_index()
    _, first = np.unique(unit, return_index=True)
    if (array != array[first][unit]).any():
        raise UsageError(
            "a unit has records at several sites",
            where="simulation.partition.column",
            remedy="Each site protects its own units: cut by a column that is the same for all "
            "records of a unit.",
        )
    return {
        name: records.take(np.flatnonzero(array == value)) for name, value in sorted(named.items())
    }


def _site_name(value: str) -> str:
    name = nearest_name(value)
    if name is None or name == SERVER or name in _MISSING:
        raise UsageError(
            f"{value[:80]!r} cannot name a site",
            where="simulation.partition.column",
            remedy="It reads as if the value were missing: say whose the record is."
            if name in _MISSING
            else "Names of sites are of ASCII letters and digits, and not `server`.",
        )
    return name
