"""A unit is a patient with all records: one coin, at most so many records, one clipped gradient."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hortus.client import trainer as module
from hortus.client.trainer import Trainer, untimed
from hortus.learning.data.records import Records
from hortus.learning.loader import Batch
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.clipping.base import ClippingAt
from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import ClippedSum
from hortus.privacy.gradients.sampling import sample_records
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise.randomness import UnsafeSeededRandomness
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError
from tests.helpers.labelled import labelled

CAP = 3
# Patient "a" has nine records, all of one kind, whose gradients point one way; "b" and "c" have one.
TEXTS = ("the sky is blue", *["a red rose"] * 9, "grass is green")
RECORDS = labelled(TEXTS, np.array([2, *[0] * 9, 1]), (), ("b", *"aaaaaaaaa", "c"))
OTHERS = RECORDS.take(np.array([0, 10]))


class Bench:
    """A site's trainer with q = 1, which keeps what it gives to the engine and gets from it."""

    def __init__(self, contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contract = contract
        self.workbench = Workbench(contract, Path(contract.model))
        self.encoding = PrivateStep.of(contract, self.workbench.space.dimension, cohort=2)
        self.batches: list[Batch] = []
        self.sums: list[NDArray[np.float64]] = []
        self.one_by_one = False
        summed = self.workbench.gradients.clipped_sum

        def watched(batches: Iterable[Batch], clipping: ClippingAt, grid: float) -> ClippedSum:
            own = list(batches)
            self.batches = own
            if self.one_by_one:
                own = [replace(b, units=torch.arange(len(b.targets))) for b in own]
            result = summed(own, clipping, grid)
            self.sums.append(result.total)
            return result

        monkeypatch.setattr(self.workbench.gradients, "clipped_sum", watched)

    def step(self, records: Records, number: int = 0) -> NDArray[np.float64]:
        randomness = UnsafeSeededRandomness(1, "ash")
        encoded = self.workbench.loader.encode(records)
        trainer = Trainer(self.encoding, self.workbench, encoded, randomness, untimed)
        adapter = np.full(self.workbench.space.dimension, 0.1, np.float32)
        trainer.vector(adapter, number, 0)
        return self.sums[-1]

    def rehearse(self, records: Records) -> list[Batch]:
        encoded = self.workbench.loader.encode(records)
        randomness = UnsafeSeededRandomness(1, "ash")
        Trainer(self.encoding, self.workbench, encoded, randomness, untimed).rehearse()
        return self.batches

    def drawn(self) -> list[str]:
        return [RECORDS.units[index] for batch in self.batches for index in batch.index]


@pytest.fixture
def bench(write_plan: Any, monkeypatch: pytest.MonkeyPatch) -> Bench:
    plan = load_plan(
        write_plan(
            training={"sampling_rate": 1.0, "micro_batch": 4},
            privacy={"unit": "patient", "max_records_per_unit": CAP, "clipping_norm": 1e-3},
        )
    )
    return Bench(plan.contract(model_digest="a" * 64, noise_multiplier=1.0), monkeypatch)


def test_a_unit_gives_at_most_its_cap_of_records_in_one_batch(bench: Bench) -> None:
    bench.step(RECORDS)
    assert sorted(bench.drawn()) == ["a", "a", "a", "b", "c"]
    for batch in bench.batches:
        owners = [RECORDS.units[index] for index in batch.index]
        assert len(set(owners)) == len(set(batch.units.tolist()))
        assert sum(batch.weights.tolist()) == pytest.approx(len(set(owners)))


def test_ignoring_the_cap_would_be_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "sample_records", lambda of, rate, _, *rest: sample_records(of, rate, None, *rest)
    )
    bench.step(RECORDS)
    assert bench.drawn().count("a") > CAP


def test_other_records_stand_for_a_unit_in_every_step(bench: Bench) -> None:
    drawn = set()
    for number in range(20):
        bench.step(RECORDS, number)
        indices = np.concatenate([batch.index for batch in bench.batches])
        drawn.add(tuple(sorted(i for i in indices.tolist() if RECORDS.units[i] == "a")))
    assert len(drawn) > 10


def test_a_unit_with_all_its_records_moves_the_sum_by_no_more_than_the_clipping_norm(
    bench: Bench,
) -> None:
    """The claim itself; planted: records clipped one by one, which moves it by three times C."""
    bound = bench.contract.privacy.clipping_norm
    moved = np.linalg.norm(bench.step(RECORDS) - bench.step(OTHERS))
    assert 0.9 * bound < moved <= bound * (1 + 1e-6)
    bench.one_by_one = True
    with pytest.raises(HortusError, match="not clipped"):  # before anything is sent
        bench.step(RECORDS.take(np.arange(1, 10)))
    assert np.linalg.norm(bench.sums[-1]) > 2.5 * bound


def test_a_step_that_clips_nothing_is_not_released(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivateStep, "clipping", lambda *_: FlatClipping().at(np.inf))
    with pytest.raises(HortusError, match="not clipped"):
        bench.step(RECORDS)


def test_a_rehearsal_is_of_the_largest_unit_that_a_plan_allows_and_of_no_record(
    bench: Bench,
) -> None:
    for records in (RECORDS, OTHERS):
        (batch,) = bench.rehearse(records)
        assert batch.inputs["attention_mask"].sum(1).tolist() == [16] * CAP
        assert batch.units.tolist() == [0] * CAP
