"""Privacy accounting: events are data, accountants are functions of their multiset.

Neighbouring datasets differ by one unit added or removed. A step is a Poisson-subsampled Gaussian;
its privacy loss distribution is composed numerically (Koskela et al. 2020; Doroshenko et al. 2022,
whose connect-the-dots discretisation makes the result an upper bound). Rényi DP (Mironov et al.
2019) stands beside it as a second upper bound.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting.pld import privacy_loss_distribution as pld
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp

from hortus.protocol.errors import UsageError

_INTERVAL = 1e-3
_RDP_ORDERS = tuple(1 + x / 10 for x in range(1, 100)) + tuple(range(11, 64)) + (80, 128, 256, 512)
_LARGEST_MULTIPLIER = 1e5


@dataclass(frozen=True, slots=True, order=True)
class GaussianEvent:
    """One release of a Poisson-subsampled Gaussian.

    Attributes:
        sampling_rate: q in (0, 1].
        noise_multiplier: Standard deviation over L2 sensitivity.
    """

    sampling_rate: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not (0 < self.sampling_rate <= 1 and 0 < self.noise_multiplier < math.inf):
            raise UsageError(f"no such mechanism: {self}")


History = Mapping[GaussianEvent, int]


def epsilon(history: History, delta: float) -> float:
    """Returns the smaller of the two upper bounds on ε(δ); 0 for an empty history."""
    return _epsilon(tuple(sorted(item for item in history.items() if item[1])), delta)


def epsilon_rdp(history: History, delta: float) -> float:
    """Returns the Rényi bound on ε(δ)."""
    if not any(history.values()):
        return 0.0
    total = sum(
        count
        * rdp.compute_rdp(
            q=event.sampling_rate,
            noise_multiplier=event.noise_multiplier,
            steps=1,
            orders=_RDP_ORDERS,
        )
        for event, count in history.items()
    )
    return float(rdp.get_privacy_spent(orders=_RDP_ORDERS, rdp=total, delta=delta)[0])


def epsilon_prv(history: History, delta: float) -> float:
    """Returns Opacus's PRV upper estimate of ε(δ) (Gopi et al. 2021)."""
    if not any(history.values()):
        return 0.0
    accountant = PRVAccountant()
    accountant.history = [
        (event.noise_multiplier, event.sampling_rate, count) for event, count in history.items()
    ]
    return float(accountant.get_epsilon(delta))


def calibrate_noise_multiplier(
    target: float, delta: float, sampling_rate: float, steps: int
) -> float:
    """Returns the smallest noise multiplier, to four decimals, that spends at most ε.

    Raises:
        UsageError: No multiplier below 10⁵ does.
    """

    def spent(ten_thousandths: int) -> float:
        return epsilon({GaussianEvent(sampling_rate, ten_thousandths / 1e4): steps}, delta)

    high = 1
    while spent(high) > target:
        high *= 2
        if high / 1e4 > _LARGEST_MULTIPLIER:
            raise UsageError(f"no noise reaches ε = {target:g} in {steps} steps at δ = {delta:g}")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if spent(middle) <= target else (middle, high)
    return high / 1e4


@lru_cache(maxsize=65536)
def _epsilon(history: tuple[tuple[GaussianEvent, int], ...], delta: float) -> float:
    if not history:
        return 0.0
    bound = epsilon_rdp(dict(history), delta)
    if bound > 200:  # a loss distribution this wide takes long, and nobody would spend it
        return bound
    composed = None
    for event, count in history:
        own = _distribution(event).self_compose(count)
        composed = own if composed is None else composed.compose(own)
    assert composed is not None  # noqa: S101 - the history is not empty
    return min(bound, float(composed.get_epsilon_for_delta(delta)))


@lru_cache(maxsize=256)
def _distribution(event: GaussianEvent) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        event.noise_multiplier,
        sampling_prob=event.sampling_rate,
        value_discretization_interval=_INTERVAL,
    )
