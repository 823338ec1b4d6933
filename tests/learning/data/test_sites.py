import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hortus.learning.data.partition import partition
from hortus.learning.data.records import Records
from hortus.protocol.plan import Partition
from hortus.runtime.errors import UsageError
from tests.helpers.labelled import groups_of, labelled, labels_of, texts_of


def records(count: int, classes: int = 4) -> Records:
    texts = tuple(f"text {i}" for i in range(count))
    return labelled(texts, np.arange(count) % classes, tuple(t.encode() for t in texts))


HOWS = [
    Partition(kind="iid", sites=5),
    Partition(kind="dirichlet", sites=5, alpha=0.3),
    Partition(kind="dirichlet", sites=5, alpha=100),
]


@settings(deadline=None)
@given(how=st.sampled_from(HOWS), count=st.integers(40, 200), seed=st.integers(0, 2**63 - 1))
def test_every_record_is_at_exactly_one_site(how: Partition, count: int, seed: int) -> None:
    whole = records(count)
    sites = partition(whole, how, seed, groups=groups_of(whole))
    assert len(sites) == 5
    assert all(len(site) for site in sites.values())
    assert sorted(t for site in sites.values() for t in texts_of(site)) == sorted(texts_of(whole))
    label_of = dict(zip(texts_of(whole), labels_of(whole), strict=True))
    for site in sites.values():
        assert [label_of[text] for text in texts_of(site)] == labels_of(site)
        assert site.rows == tuple(text.encode() for text in texts_of(site))


def test_dirichlet_shares_have_the_moments_of_their_law() -> None:
    """Var = (k-1)/(k²(kα+1)) (Hsu et al. 2019 draw from it); the seed is fixed: no false failure."""
    sites, alpha, classes = 5, 0.5, 400
    whole = records(100 * classes, classes)
    parts = partition(
        whole, Partition(kind="dirichlet", sites=sites, alpha=alpha), 11, groups=groups_of(whole)
    )
    shares = np.array([np.bincount(labels_of(p), minlength=classes) / 100 for p in parts.values()])
    assert np.allclose(shares.sum(0), 1)
    assert np.allclose(shares.mean(1), 1 / sites, atol=0.05)
    assert shares.var() == pytest.approx((sites - 1) / (sites**2 * (sites * alpha + 1)), rel=0.1)


def test_sites_that_stay_empty_are_explained() -> None:
    with pytest.raises(UsageError, match="stay empty"):
        partition(
            records(40),
            Partition(kind="dirichlet", sites=30, alpha=0.01),
            0,
            groups=groups_of(records(40)),
        )


BY_COLUMN = Partition(kind="column", column="ward")


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_site_names_from_a_column_are_valid_or_refused(values: list[str]) -> None:
    try:
        sites = partition(records(len(values)), BY_COLUMN, 0, values)
    except UsageError:
        return
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) for name in sites)
    assert sum(map(len, sites.values())) == len(values)


def test_values_that_would_share_a_name_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'North' and 'north\.' would both be called 'north'"):
        partition(records(2), BY_COLUMN, 0, ["North", "north."])


def test_a_value_without_letters_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot name a site"):
        partition(records(2), BY_COLUMN, 0, ["north", "—"])


def test_a_long_column_is_cut_quickly() -> None:
    start = time.process_time()
    partition(records(20_000), BY_COLUMN, 0, [f"site {i % 50}" for i in range(20_000)])
    assert time.process_time() - start < 5
