from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.learning.data.partition import partition
from hortus.protocol.plan import Partition
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import groups_of, labelled, labels_of, texts_of

RECORDS = labelled(tuple(f"text {i}" for i in range(300)), np.arange(300) % 5)


@given(
    st.one_of(st.just({"kind": "iid"}), st.builds(dict, alpha=st.floats(0.3, 50))),
    st.integers(2, 20),
    st.integers(0, 99),
)
def test_every_record_is_at_one_site_and_no_site_is_empty(
    how_cut: dict[str, Any], sites: int, seed: int
) -> None:
    how = Partition(**{"kind": "dirichlet", "sites": sites} | how_cut)
    parts = partition(RECORDS, how, seed, groups=groups_of(RECORDS))
    assert len(parts) == sites
    assert all(len(part) for part in parts.values())
    assert Counter(t for part in parts.values() for t in texts_of(part)) == Counter(
        texts_of(RECORDS)
    )
    again = partition(RECORDS, how, seed, groups=groups_of(RECORDS))
    assert all(texts_of(parts[name]) == texts_of(again[name]) for name in parts)


def test_a_small_alpha_is_less_even_than_a_large_one() -> None:
    def spread(alpha: float) -> float:
        parts = partition(
            RECORDS, Partition(kind="dirichlet", sites=5, alpha=alpha), 3, groups=groups_of(RECORDS)
        )
        shares = [np.bincount(labels_of(part), minlength=5) / len(part) for part in parts.values()]
        return float(np.std(shares))

    assert spread(0.2) > 2 * spread(100)


BY_WARD = Partition(kind="column", column="ward")


def test_a_column_names_the_sites() -> None:
    values = ["Ward A", "ward-b", "Ward A"]
    how = Partition(kind="column", column="ward")
    parts = partition(RECORDS.take(np.arange(3)), how, 0, values)
    assert {name: texts_of(part) for name, part in parts.items()} == {
        "ward-a": ("text 0", "text 2"),
        "ward-b": ("text 1",),
    }


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Zürich, Ward A", "zurich-ward-a"),
        (" 7 ", "7"),
        ("Ａ１", "a1"),
        ("ñ_ç", "n-c"),
        ("NA", "na"),
    ],
)
def test_a_site_is_called_what_its_value_says(value: str, name: str) -> None:
    parts = partition(RECORDS.take(np.arange(1)), BY_WARD, 0, [value])
    assert list(parts) == [name]


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "nan",
        "NULL",
        " none ",
        "NaT",
        "N/A",
        "undefined",
        "Łódź",
        "東京",
        "server",
        "-",
        "a" * 64,
    ],
)
def test_a_value_that_names_no_site_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="cannot name a site"):
        partition(RECORDS.take(np.arange(1)), BY_WARD, 0, [value])


@pytest.mark.parametrize("values", [["Ward A", "ward a", "x"], ["", "x", "y"]])
def test_values_that_cannot_name_sites_are_refused(values: list[str]) -> None:
    with pytest.raises(UsageError, match="called|cannot name"):
        partition(RECORDS.take(np.arange(3)), Partition(kind="column", column="w"), 0, values)


def test_more_sites_than_records_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot fill"):
        partition(RECORDS.take(np.arange(3)), Partition(kind="iid", sites=4), 0)


OWNED = replace(RECORDS, units=tuple(f"p{i * i % 37}" for i in range(300)))


@given(st.sampled_from(["iid", "dirichlet"]), st.integers(2, 6), st.integers(0, 99))
def test_no_unit_is_at_two_sites(kind: str, sites: int, seed: int) -> None:
    how = Partition(kind=kind, sites=sites, alpha=1.0)  # type: ignore[arg-type]
    parts = partition(OWNED, how, seed, groups=groups_of(OWNED))
    homes = [unit for part in parts.values() for unit in set(part.units)]
    assert len(homes) == len(set(homes))
    assert sum(map(len, parts.values())) == len(OWNED)


def test_units_each_of_one_record_are_cut_as_records_are() -> None:
    alone = replace(RECORDS, units=tuple(f"{i:03}" for i in range(300)))
    for kind in ("iid", "dirichlet"):
        how = Partition(kind=kind, sites=4)  # type: ignore[arg-type]
        first, second = (
            partition(RECORDS, how, 1, groups=groups_of(RECORDS)),
            partition(alone, how, 1, groups=groups_of(alone)),
        )
        assert [texts_of(p) for p in first.values()] == [texts_of(p) for p in second.values()]


def test_a_column_that_would_split_a_unit_is_refused() -> None:
    how = Partition(kind="column", column="ward")
    owned = OWNED.take(np.flatnonzero([u in {"p0", "p1"} for u in OWNED.units]))
    assert len(partition(owned, how, 0, list(owned.units))) == 2
    split = ["east" if i % 2 else "west" for i in range(len(owned))]
    with pytest.raises(UsageError, match="several sites"):
        partition(owned, how, 0, split)


def test_more_sites_than_units_are_refused() -> None:
    owned = replace(RECORDS, units=("p",) * 150 + ("q",) * 150)
    with pytest.raises(UsageError, match="2 units cannot fill 3"):
        partition(owned, Partition(kind="iid", sites=3), 0)


def test_an_alpha_that_would_have_no_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha belongs to kind: dirichlet"):
        Partition(kind="iid", sites=3, alpha=0.1)
