"""Three accountants compared: `python benchmarks/accountants.py` writes results/accountants.csv.

    histories    random histories of one to five kinds of release (q from 1e-5 to 1, σ/C from 0.3 to 30,
                 δ from 1e-12 to 1e-2, up to 100,000 releases): the ledger's ε against the auditor's
    gaussians    histories without sampling, where the exact ε is known (Balle and Wang 2018)
    google       smaller histories, where dp_accounting's grid can be fine enough to compare with
    calibration  the noise chosen for random plans, by dp_accounting: enough, and 0.999 of it not

A difference is relative, to ε or to a hundredth of δ where ε is less.
"""

import argparse
import csv
import math
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from dp_accounting.pld import privacy_loss_distribution as pld
from provenance import measured_commit
from scipy.optimize import brentq
from scipy.special import log_ndtr

from hortus.privacy.accounting.accountant import calibrate_noise_multiplier, epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.recount import recount

Rows = Iterator[tuple[str, float, str]]
Events = dict[GaussianEvent, int]
LEAST_SHARE = 0.01


def random_history(draw: random.Random, most: float = 5.0) -> tuple[Events, float]:
    """Returns kinds of release with how many of each, at most 10^most in all, and a δ."""
    events: Events = {}
    kinds = draw.choice([1, 1, 2, 3, 5])
    for _ in range(kinds):
        rate = 10 ** draw.uniform(-5, 0) if draw.random() < 0.85 else 1.0
        multiplier = 10 ** draw.uniform(math.log10(0.3), 1.5)
        events[GaussianEvent(rate, multiplier)] = math.ceil(10 ** draw.uniform(0, most) / kinds)
    return events, 10 ** draw.uniform(-12, -2)


def histories(count: int) -> Rows:
    """The ledger's accountant against the auditor's."""
    draw, below, above, seconds = random.Random(1), 0.0, 0.0, [0.0, 0.0]
    longest = 0.0
    for _ in range(count):
        events, delta = random_history(draw)
        start = time.process_time()
        charged = epsilon(events, delta)
        middle = time.process_time()
        audited = recount(events, delta)
        end = time.process_time()
        seconds = [seconds[0] + middle - start, seconds[1] + end - middle]
        longest = max(longest, middle - start)
        apart = _apart(charged, audited, delta)
        below, above = min(below, apart), max(above, apart)
    yield f"ledger above auditor, largest of {count} histories", 100 * above, "%"
    yield f"ledger below auditor, largest of {count} histories", -100 * below, "%"
    yield "ledger: processor time for a new history, mean", 1e3 * seconds[0] / count, "ms"
    yield "ledger: processor time for a new history, longest", 1e3 * longest, "ms"
    yield "auditor: processor time for a new history, mean", 1e3 * seconds[1] / count, "ms"


def gaussians(count: int) -> Rows:
    """Both accountants against the exact ε of Gaussians without sampling."""
    draw, found = random.Random(2), {"ledger": [0.0, 0.0], "auditor": [0.0, 0.0]}
    for _ in range(count):
        events, delta = random_history(draw)
        events = {GaussianEvent(1.0, event.noise_multiplier): n for event, n in events.items()}
        exact = exact_epsilon(sum(n / e.noise_multiplier**2 for e, n in events.items()), delta)
        for name, accountant in (("ledger", epsilon), ("auditor", recount)):
            apart = _apart(accountant(events, delta), exact, delta)
            found[name] = [min(found[name][0], apart), max(found[name][1], apart)]
    for name, (below, above) in found.items():
        yield f"{name} above the exact ε, largest of {count} without sampling", 100 * above, "%"
        yield f"{name} below the exact ε, largest of {count} without sampling", -100 * below, "%"


def google(count: int) -> Rows:
    """The ledger's accountant against dp_accounting, on as fine a grid as that can take."""
    draw, below, above, done = random.Random(3), 0.0, 0.0, 0
    while done < count:
        events, delta = random_history(draw, most=2.5)
        # Its sums of 64-bit floats err by some 1e-11.
        if delta < 1e-8:
            continue
        charged = epsilon(events, delta)
        if not 0.01 < charged < 30:
            continue
        done += 1
        apart = _apart(charged, google_epsilon(events, delta, charged / 5_000), delta)
        below, above = min(below, apart), max(above, apart)
    yield f"ledger above dp_accounting, largest of {count} histories", 100 * above, "%"
    yield f"ledger below dp_accounting, largest of {count} histories", -100 * below, "%"


def calibration(count: int) -> Rows:
    """Noise for random plans: dp_accounting's ε of it, and of a thousandth less."""
    draw, most, least, longest = random.Random(4), 0.0, math.inf, 0.0
    for _ in range(count):
        target, delta = 10 ** draw.uniform(-2, 1), 10 ** draw.uniform(-8, -4)
        rate, steps = 10 ** draw.uniform(-3, 0), math.ceil(10 ** draw.uniform(0.5, 3))
        start = time.process_time()
        multiplier = calibrate_noise_multiplier(target, delta, rate, steps)
        longest = max(longest, time.process_time() - start)
        costs = [
            google_epsilon({GaussianEvent(rate, part * multiplier): steps}, delta, target / 3_000)
            for part in (1.0, 0.999)
        ]
        most, least = max(most, costs[0] / target - 1), min(least, costs[1] / target - 1)
    yield (
        f"dp_accounting's ε of the noise chosen, over the target, largest of {count}",
        100 * most,
        "%",
    )
    yield f"dp_accounting's ε of 0.999 of it, over the target, least of {count}", 100 * least, "%"
    yield "choosing it: processor time, longest", longest, "s"


def _apart(found: float, reference: float, delta: float) -> float:
    return (found - reference) / max(reference, LEAST_SHARE * delta)


def exact_epsilon(mu_squared: float, delta: float) -> float:
    """ε of one Gaussian with sensitivity over noise μ (Balle and Wang 2018, theorem 8)."""
    mu = math.sqrt(mu_squared)

    def excess(value: float) -> float:
        above = log_ndtr(mu / 2 - value / mu)
        below = value + log_ndtr(-mu / 2 - value / mu)
        return float(above + math.log(max(-math.expm1(below - above), 1e-300)) - math.log(delta))

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu_squared / 2 + 40 * mu, xtol=1e-15, rtol=1e-12))


def google_epsilon(events: Events, delta: float, interval: float) -> float:
    """ε by dp_accounting alone: its own discretisation, its own composition, its own search."""
    composed = None
    for event, count in events.items():
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=interval,
        ).self_compose(count)
        composed = one if composed is None else composed.compose(one)
    return float(composed.get_epsilon_for_delta(delta)) if composed else 0.0


PARTS: dict[str, tuple[Callable[[int], Rows], int]] = {
    "histories": (histories, 2_000),
    "gaussians": (gaussians, 400),
    "google": (google, 40),
    "calibration": (calibration, 20),
}


def main() -> None:
    """Measures what is asked for and writes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the number of histories")
    options = parser.parse_args()
    rows = []
    found = (PARTS[name][0](math.ceil(options.share * PARTS[name][1])) for name in options.parts)
    for what, value, unit in chain.from_iterable(found):
        print(f"{what:78} {value:10.4g} {unit}", flush=True)
        rows.append((what, f"{value:.4g}", unit))
    if set(options.parts) == set(PARTS):
        commit = measured_commit()
        path = Path(__file__).parent / "results" / "accountants.csv"
        with path.open("w", newline="") as file:
            context = [
                ("commit", commit, ""),
                ("machine", f"{os.cpu_count()} x {platform.machine()}", ""),
            ]
            csv.writer(file).writerows([("what", "value", "unit"), *rows, *context])


if __name__ == "__main__":
    main()
