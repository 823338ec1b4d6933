"""Where the processor's time of a site's private step goes.

    python benchmarks/client_step.py

The step of benchmarks/engine.py on MiniLM (LoRA on all six layers and a head, 32 records of 128 tokens),
then rounding, exact noise, and the masks of eight sites; one thread, medians of five. Written to
benchmarks/results/client_step.csv.
"""

import csv
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from engine import Texts, build
from provenance import measured_commit

from hortus.privacy.gradients.clipping.flat import FlatClipping
from hortus.privacy.gradients.engine import PerUnitGradients
from hortus.privacy.gradients.engines.base import LossBatch
from hortus.privacy.noise import discrete_gaussian
from hortus.privacy.noise.mechanism import Mechanism
from hortus.privacy.noise.randomness import SessionRandomness
from hortus.privacy.secure_sum.masks import MaskedVector

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "client_step.csv"
SITES, TURNS = 8, 5
CLIPPING = FlatClipping().at(1.0)


class Stopwatch:
    """Processor seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds.setdefault(phase, []).append(time.process_time() - begun)


class TimedGradients(PerUnitGradients):
    """The engine, its forward and backward pass timed by itself."""

    def __init__(self, model: torch.nn.Module, stopwatch: Stopwatch) -> None:
        super().__init__(model)
        self._stopwatch = stopwatch

    def _each(self, batch: LossBatch) -> torch.Tensor:
        with self._stopwatch("forward and backward"):
            return super()._each(batch)


def step(engine: TimedGradients, mechanism: Mechanism, texts: Texts, stopwatch: Stopwatch) -> None:
    stream = SessionRandomness().stream()
    with stopwatch("engine"):
        total = engine.clipped_sum([texts], CLIPPING, mechanism.grid).total
    with stopwatch("rounding"):
        rounded = mechanism.round(total, stream.uniform(len(total), bits=20))
    with stopwatch("noise"):
        rounded += discrete_gaussian.sample(mechanism.share_std, len(total), stream)
    seeds = [(os.urandom(32), number % 2 == 0) for number in range(SITES - 1)]
    rounded.setflags(write=False)
    with stopwatch("masks"):
        list(MaskedVector(rounded, seeds).chunks())


def main() -> None:
    torch.set_num_threads(1)
    stopwatch = Stopwatch()
    engine, texts = TimedGradients(build("minilm"), stopwatch), Texts.draw("minilm")
    mechanism = Mechanism.design(
        clipping_norm=CLIPPING.norm,
        noise_multiplier=1.0,
        dimension=engine.dimension,
        shares=SITES,
        cohort=SITES,
        max_batch=200,
    )
    for _ in range(TURNS + 1):
        step(engine, mechanism, texts, stopwatch)
    medians = {name: statistics.median(times[1:]) for name, times in stopwatch.seconds.items()}
    medians["clipping"] = float(
        np.median(
            np.subtract(stopwatch.seconds["engine"], stopwatch.seconds["forward and backward"])[1:]
        )
    )
    whole = sum(seconds for phase, seconds in medians.items() if phase != "engine")
    commit = measured_commit()
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["phase", "seconds", "share", "parameters", "commit"])
        for phase in ("forward and backward", "clipping", "rounding", "noise", "masks"):
            share = medians[phase] / whole
            print(f"{phase}: {medians[phase]:.4f} s, {share:.2%}")
            row = [phase, round(medians[phase], 4), round(share, 5), engine.dimension, commit]
            writer.writerow(row)


if __name__ == "__main__":
    main()
