"""What Skellam noise would be charged where the discrete Gaussian of its variance costs ε.

`python benchmarks/skellam.py` prints the table of docs/mathematics.md, with what is known for Skellam
noise: a Rényi bound at integer orders (Agarwal et al. 2021, Theorem 3.5, with Δ₁ ≤ Δ₂² for integers)
under Poisson sampling (Zhu and Wang 2019, Theorem 5), converted as in Balle et al. (2020), Theorem 21.
"""

import math

import numpy as np
from scipy.special import gammaln, logsumexp

from hortus.privacy.accounting import calibrate_noise_multiplier

DELTA = 1e-5
VARIANCE = 1e9  # in ring units, as in the shipped plans; more changes no digit
SETTINGS = ((1.0, 40), (0.25, 32), (0.01, 1000))
TARGETS = (8.0, 3.0, 1.0)
ORDERS = (*range(2, 128), 160, 192, 256)


def main() -> None:
    """Prints."""
    print("q, steps |", *(f"ε = {target:g} |" for target in TARGETS))
    for rate, steps in SETTINGS:
        charged = []
        for target in TARGETS:
            multiplier = calibrate_noise_multiplier(target, DELTA, rate, steps)
            bounds = [
                steps * _sampled(order, rate, multiplier)
                - (math.log(DELTA) + math.log(order)) / (order - 1)
                + math.log1p(-1 / order)
                for order in ORDERS
            ]
            charged.append(f"{min(bounds):.3g} |")
        print(f"{rate:g}, {steps} |", *charged)


def _renyi(order: int, multiplier: float) -> float:
    """α/2z² + ((2α − 1)Δ₂² + 6Δ₁)/4μ², z² being μ/Δ₂²."""
    return order / (2 * multiplier**2) * (1 + (2 * order + 5) / (2 * order * VARIANCE))


def _sampled(order: int, rate: float, multiplier: float) -> float:
    if rate == 1:
        return _renyi(order, multiplier)
    terms = [
        (order - 1) * math.log1p(-rate) + math.log(order * rate - rate + 1),
        *(
            (math.log(3) if k > 2 else 0)
            + gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
            + (order - k) * math.log1p(-rate) + k * math.log(rate)
            + (k - 1) * _renyi(k, multiplier)
            for k in range(2, order + 1)
        ),
    ]  # fmt: skip
    return float(logsumexp(np.array(terms))) / (order - 1)


if __name__ == "__main__":
    main()
