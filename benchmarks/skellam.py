"""What Skellam noise would be charged where the discrete Gaussian of its variance costs ε.

`python benchmarks/skellam.py` prints the table of docs/mathematics.md: a subsampled Gaussian's Rényi
divergences, of whole order only. (The 9/4 of the variance that is not counted changes no digit.)
"""

import math

import numpy as np

from hortus.privacy.accounting.accountant import calibrate_noise_multiplier
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.renyi import ORDERS, divergences, from_divergences

DELTA = 1e-5
SETTINGS = ((1.0, 40), (0.25, 24), (0.01, 1000))
TARGETS = (8.0, 3.0, 1.0)


def main() -> None:
    """Prints."""
    print("q, steps |", *(f"ε = {target:g} |" for target in TARGETS))
    for rate, steps in SETTINGS:
        charged = []
        for target in TARGETS:
            multiplier = calibrate_noise_multiplier(target, DELTA, rate, steps)
            gaussian = steps * divergences(GaussianEvent(rate, multiplier))
            whole = np.where(np.rint(ORDERS) == ORDERS, gaussian, math.inf)
            charged.append(f"{from_divergences(whole, DELTA):.3g} |")
        print(f"{rate:g}, {steps} |", *charged)


if __name__ == "__main__":
    main()
