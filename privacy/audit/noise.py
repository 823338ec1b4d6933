"""The noise multipliers that a plan can have, derived independently: rounding up adds only a little.

A site adds discrete Gaussian noise of a whole number s of ring units, the least with
m·(s² − 9) ≥ (σΔ)², where m sites' noise is counted on and Δ = scale·C + √d is the sensitivity. So
s < √((σΔ)²/m + 9) + 1, and what is charged, √(m·(s² − 9))/Δ, is less than

    √(σ² + (2·√m·√((σΔ)² + 9m) + m)/Δ²),

which falls as Δ grows. An auditor knows neither d nor the cohort. The coarsest scale is that of the
largest cohort, and no plan is accepted whose rounding is a tenth of the sensitivity.
"""

import math

from hortus.protocol.limits import MAX_SITES
from hortus.protocol.plan import Contract
from hortus.protocol.privacy import Noise

_SMOOTHING = 9
_TAIL = 12
_INFLATION = 1.1
_LEAST_SENSITIVITY = 10.0  # √d is at most a tenth of it, and d at least 1
_FLOAT = 1 + 1e-9


def noise_range(contract: Contract) -> tuple[float, float]:
    """Returns the least and the largest noise multiplier that a charge of a plan can have."""
    sigma = contract.privacy.noise_multiplier
    if sigma is None:
        return 0.0, 0.0
    shares = contract.cohort.min_honest if contract.privacy.noise is Noise.DISTRIBUTED else 1
    unit = max(_LEAST_SENSITIVITY, _coarsest_unit(contract, sigma, shares))
    added = 2 * math.sqrt(shares) * math.sqrt((sigma * unit) ** 2 + _SMOOTHING * shares) + shares
    return sigma / _FLOAT, math.sqrt(sigma**2 + added / unit**2) * _FLOAT


def _coarsest_unit(contract: Contract, sigma: float, shares: int) -> float:
    """Returns the norm of a unit in ring units where the largest cohort shares the ring."""
    privacy, training, norm = contract.privacy, contract.training, contract.privacy.unit_norm
    most = 4 * training.sampling_rate * training.nominal_units
    most_units = math.ceil(most + _TAIL * math.sqrt(most))
    room = 2 ** (privacy.ring_bits - 1) - _TAIL * MAX_SITES * (_SMOOTHING + 2)
    spread = _TAIL * sigma * norm * _INFLATION * math.sqrt(MAX_SITES / shares)
    scale = room / (MAX_SITES * most_units * norm + spread)
    return 2.0 ** math.floor(math.log2(scale)) * norm
