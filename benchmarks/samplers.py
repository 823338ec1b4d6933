"""Samples a second on one core, beside numpy's normal numbers, which are neither exact nor secret.

`python benchmarks/samplers.py` writes results/samplers.csv. Times are of the process, medians of
interleaved repetitions, so that ratios hold on a busy machine too.
"""

import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from provenance import measured_commit

from hortus.privacy.noise.discrete_gaussian import DiscreteGaussian
from hortus.privacy.noise.exact_sampler import sample
from hortus.privacy.noise.randomness import SessionRandomness
from hortus.privacy.noise.skellam import Skellam

SIZE = 2_000_000
REPETITIONS = 9


def main() -> None:
    """Measures and writes."""
    stream = SessionRandomness().stream()
    generator = np.random.default_rng(0)
    samplers: dict[str, Callable[[], object]] = {
        "numpy normal, rounded": lambda: np.rint(generator.normal(0, 1e6, SIZE)).astype(np.int64),
        "AES-256-CTR, 64 bits": lambda: stream.uint64(SIZE),
    } | {
        f"{name}, σ = {sigma}": partial(sample, law(sigma), SIZE, stream)
        for name, law in (("discrete Gaussian", DiscreteGaussian), ("Skellam", Skellam))
        for sigma in (10, 1_000, 123_457, 2**24 + 5)
    }
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(REPETITIONS):
        for name, draw in samplers.items():
            start = time.process_time()
            draw()
            seconds[name].append(time.process_time() - start)
    rates = {name: SIZE / statistics.median(times) / 1e6 for name, times in seconds.items()}
    commit = measured_commit()
    with (Path(__file__).parent / "results" / "samplers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "million samples / s / core", "over numpy", "commit"])
        for name, rate in rates.items():
            ratio = rate / rates["numpy normal, rounded"]
            writer.writerow([name, f"{rate:.1f}", f"{ratio:.2f}", commit])
            print(f"{name:32} {rate:7.1f} M/s  {ratio:5.2f} of numpy")


if __name__ == "__main__":
    main()
