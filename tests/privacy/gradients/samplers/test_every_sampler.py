"""Every sampler: no unit joins more often than Poisson sampling with the plan's rate would have it join."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from hortus.privacy.gradients.samplers.base import Sampler
from hortus.privacy.gradients.samplers.kinds import SAMPLERS
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.noise.randomness import Stream, UnsafeSeededRandomness
from hortus.protocol.section import Section
from hortus.runtime.errors import UsageError

every_sampler = pytest.mark.parametrize("kind", SAMPLERS.names())
FALSE_FAILURE = 1e-6
STEPS, UNITS = 400, 30


def sampler(kind: str) -> Sampler:
    return SAMPLERS.complete({"kind": kind})


def stream(number: int) -> Stream:
    return UnsafeSeededRandomness(5, "ash").stream("sample", number)


def drawn(kind: str, rate: float) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    rows = [sampler(kind).joining(UNITS, rate, stream(step)) for step in range(STEPS)]
    return np.stack(rows)


@every_sampler
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9, 1.0])
def test_no_unit_joins_more_often_than_is_charged(kind: str, rate: float) -> None:
    joined = drawn(kind, rate)
    assert joined.dtype == np.bool_
    most = binom.isf(FALSE_FAILURE / UNITS, STEPS, rate)
    assert joined.sum(0).max() <= most
    assert joined.sum() <= binom.isf(FALSE_FAILURE, STEPS * UNITS, rate)


@every_sampler
def test_units_and_steps_join_independently(kind: str) -> None:
    joined = drawn(kind, 0.4).astype(float)
    limit = 5.5 / math.sqrt(STEPS)  # 435 pairs, normal: below 2e-5 together
    between_units = np.corrcoef(joined.T)[np.triu_indices(UNITS, 1)]
    assert np.abs(between_units).max() < limit
    lagged = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in joined.T]
    assert np.abs(lagged).max() < limit


@every_sampler
def test_somebody_joins_and_nobody_is_drawn_from_nobody(kind: str) -> None:
    assert drawn(kind, 0.4).any()
    assert sampler(kind).joining(0, 0.5, stream(0)).shape == (0,)


@every_sampler
def test_a_unit_that_joins_brings_all_its_records_or_so_many_as_it_may(kind: str) -> None:
    units = np.array([0, 1, 1, 1, 2, 2, 3], np.int64)
    joins = sampler(kind).joining(4, 0.5, stream(3))
    whole = sample_records(units, 0.5, None, stream(3), sampler(kind))
    assert np.array_equal(whole, np.flatnonzero(joins[units]))
    capped = sample_records(units, 0.5, 2, stream(3), sampler(kind))
    assert set(capped) <= set(whole)
    assert np.bincount(units[capped], minlength=4).max() <= 2


@every_sampler
def test_a_contracts_section_is_read_as_it_was_written(kind: str) -> None:
    section = sampler(kind).section
    again = Section.model_validate(json.loads(section.model_dump_json()))
    assert SAMPLERS.parse(again) == sampler(kind)
    assert again.digest() == section.digest()


@pytest.mark.parametrize("written", ["poison", "Poisson", "poissn"])
def test_an_unknown_sampler_is_refused_with_the_nearest_one(written: str) -> None:
    with pytest.raises(UsageError, match="training.sampler.kind") as caught:
        SAMPLERS.complete({"kind": written})
    assert "'poisson'" in str(caught.value)
