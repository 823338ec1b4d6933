from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortus.learning.datasets import Records
from hortus.learning.partition import partition
from hortus.protocol.errors import UsageError
from hortus.protocol.plan import Partition

RECORDS = Records(tuple(f"text {i}" for i in range(300)), np.arange(300) % 5)


@given(
    st.sampled_from(["iid", "dirichlet"]),
    st.integers(2, 20),
    st.floats(0.3, 50),
    st.integers(0, 99),
)
def test_every_record_is_at_one_site_and_no_site_is_empty(
    kind: str, sites: int, alpha: float, seed: int
) -> None:
    how = Partition(kind=kind, sites=sites, alpha=alpha)  # type: ignore[arg-type]
    parts = partition(RECORDS, how, seed)
    assert len(parts) == sites
    assert all(len(part) for part in parts.values())
    assert Counter(t for part in parts.values() for t in part.texts) == Counter(RECORDS.texts)
    again = partition(RECORDS, how, seed)
    assert all(parts[name].texts == again[name].texts for name in parts)


def test_a_small_alpha_is_less_even_than_a_large_one() -> None:
    def spread(alpha: float) -> float:
        parts = partition(RECORDS, Partition(kind="dirichlet", sites=5, alpha=alpha), 3)
        shares = [np.bincount(part.labels, minlength=5) / len(part) for part in parts.values()]
        return float(np.std(shares))

    assert spread(0.2) > 2 * spread(100)


def test_a_column_names_the_sites() -> None:
    values = ["Ward A", "ward-b", "Ward A"]
    how = Partition(kind="column", column="ward")
    parts = partition(RECORDS.take(np.arange(3)), how, 0, values)
    assert {name: part.texts for name, part in parts.items()} == {
        "ward-a": ("text 0", "text 2"),
        "ward-b": ("text 1",),
    }


@pytest.mark.parametrize("values", [["Ward A", "ward a", "x"], ["", "x", "y"]])
def test_values_that_cannot_name_sites_are_refused(values: list[str]) -> None:
    with pytest.raises(UsageError, match="called|cannot name"):
        partition(RECORDS.take(np.arange(3)), Partition(kind="column", column="w"), 0, values)


def test_more_sites_than_records_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot fill"):
        partition(RECORDS.take(np.arange(3)), Partition(kind="iid", sites=4), 0)
