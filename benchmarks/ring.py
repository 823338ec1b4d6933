"""What a smaller ring saves and costs: the demo's plan, its uploads in 32 and in fewer bits.

    python benchmarks/ring.py

The demo's sum (six sites, 16,908 parameters, ε = 8) with everything but the gradients real: clipped sums of
random directions are rounded, noised, masked, packed, added and lifted. A ring that the plan does not fit is
refused, and stands in the results as such. Written to benchmarks/results/ring.csv.
"""

import csv
import math
import secrets
import statistics
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from provenance import measured_commit

from hortus.planning.plan_file import make_plan
from hortus.privacy.accounting.accountant import calibrate_noise_multiplier, epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.noise.mechanism import Mechanism
from hortus.privacy.noise.randomness import SessionRandomness
from hortus.privacy.secure_sum.masks import MaskedVector
from hortus.privacy.step import largest_batch
from hortus.protocol.plan import Agreement
from hortus.protocol.vectors import fill
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import UsageError
from hortus.server.sums.attempt import Attempt

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ring.csv"
BITS = (16, 20, 22, 23, 24, 32)
SITES, DIMENSION, SEEDS = 6, 16_908, 5
COLUMNS = (
    "bits",
    "scale",
    "more noise",
    "or epsilon",
    "bytes up",
    "ms a site",
    "error of the mean",
    "sd",
    "commit",
)


def demo() -> Agreement:
    plan = yaml.safe_load(files("hortus.simulation").joinpath("demo.yaml").read_text("utf-8"))
    plan["task"]["labels"] = ["a", "b"]
    return make_plan(plan)


def mechanism(plan: Agreement, bits: int) -> Mechanism:
    privacy = plan.privacy
    assert privacy.epsilon is not None
    return Mechanism.design(
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=calibrate_noise_multiplier(
            privacy.epsilon, privacy.delta, plan.training.sampling_rate, plan.releases
        ),
        dimension=DIMENSION,
        shares=plan.cohort.min_honest,
        cohort=SITES,
        max_batch=largest_batch(plan),
        ring_bits=bits,
    )


def clipped_sums(units: int, seed: int) -> np.ndarray:
    """float64[SITES, d]: each the sum of so many unit vectors around a common direction."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=DIMENSION)
    sums = np.zeros((SITES, DIMENSION))
    for total in sums:
        for _ in range(units):
            unit = common + generator.normal(size=DIMENSION)
            np.add(total, unit / np.linalg.norm(unit), out=total)
    return sums


def step(this: Mechanism, sums: np.ndarray, units: int) -> tuple[float, int, float]:
    """One secure sum; returns its error (L2, of the mean gradient), bytes and seconds of a site."""
    names = [f"site-{number}" for number in range(SITES)]
    seeds = {(i, j): secrets.token_bytes(32) for i in range(SITES) for j in range(i)}
    attempt = Attempt(0, 0, names, DIMENSION, this.ring_bits)
    size, taken = 0, 0.0
    sums = np.trunc(sums / this.grid) * this.grid
    for number, name in enumerate(names):
        released = this.release(sums[number], units, SessionRandomness().stream())
        own = [
            (seeds[max(number, peer), min(number, peer)], peer > number)
            for peer in range(SITES)
            if peer != number
        ]
        begun = time.process_time()
        chunks = list(MaskedVector(released, own, this.ring_bits).chunks())
        stream, _ = attempt.open_stream(name)
        for sequence, chunk in enumerate(chunks):
            attempt.add(name, stream, fill(wire.Chunk(), sequence, chunk))
        taken += time.process_time() - begun
        size += sum(map(len, chunks))
    attempt.close()
    error = (this.decode(attempt.total()) - sums.sum(axis=0)) / (SITES * units)
    return float(np.linalg.norm(error)), size // SITES, taken / SITES


def row(plan: Agreement, bits: int, commit: str) -> dict[str, object]:
    try:
        this = mechanism(plan, bits)
    except UsageError:
        return {"bits": bits, "scale": "refused", "commit": commit}
    inflation = this.sensitivity / (this.scale * this.clipping_norm) - 1
    unpaid = GaussianEvent(plan.training.sampling_rate, this.noise_multiplier / (1 + inflation))
    units = round(plan.training.sampling_rate * plan.training.nominal_units)
    measured = [step(this, clipped_sums(units, seed), units) for seed in range(SEEDS)]
    errors, sizes, seconds = zip(*measured, strict=True)
    return {
        "bits": bits,
        "scale": f"2^{math.log2(this.scale):.0f}",
        "more noise": f"{inflation:.3%}",
        "or epsilon": f"{epsilon({unpaid: plan.releases}, plan.privacy.delta):.3f}",
        "bytes up": sizes[0],
        "ms a site": round(1000 * statistics.median(seconds), 2),
        "error of the mean": round(statistics.mean(errors), 5),
        "sd": round(statistics.stdev(errors), 5),
        "commit": commit,
    }


def main() -> None:
    commit = measured_commit()
    plan = demo()
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for bits in BITS:
            measured = row(plan, bits, commit)
            print(*(f"{name}: {value}" for name, value in measured.items()), sep="  ", flush=True)
            writer.writerow(measured)


if __name__ == "__main__":
    main()
