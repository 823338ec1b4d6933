"""Privacy accounting: events are data, accountants are functions of their multiset.

Neighbouring datasets differ by one unit added or removed. A step is a Poisson-subsampled Gaussian;
its privacy loss distribution is composed numerically (Koskela et al. 2020; Doroshenko et al. 2022,
whose connect-the-dots discretisation makes the result an upper bound), for adding and for removing
apart, since subsampling makes the two differ. Rényi DP (Mironov et al. 2019) stands beside it as a
second upper bound. ε is the smaller of the two. Opacus's PRV accountant is a cross-check only: it
prices one of the two directions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp

from hortus.privacy.composition import composed_epsilon
from hortus.privacy.events import GaussianEvent, History
from hortus.protocol.errors import UsageError

_RDP_ORDERS = tuple(1 + x / 10 for x in range(1, 100)) + tuple(range(11, 64)) + (80, 128, 256, 512)
_LARGEST_MULTIPLIER = 1e5
_MOST_STEPS = 2**20
_NO_EPSILON = 1e-12  # stands for ε = 0 where a logarithm is taken
_WIDEST = 200.0  # a loss distribution wider than this takes long, and nobody would spend it

_Multiset = tuple[tuple[GaussianEvent, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What three accountants say of one history.

    Attributes:
        pld: Upper bound by privacy loss distributions; infinite where too wide to be worth it.
        rdp: Upper bound by Rényi DP.
        prv: Opacus's PRV estimate; NaN where `pld` is infinite.
    """

    pld: float
    rdp: float
    prv: float

    @property
    def epsilon(self) -> float:
        """The tightest bound that holds for both directions of the neighbouring relation."""
        return min(self.pld, self.rdp)


def epsilon(history: History, delta: float) -> float:
    """Returns the smaller of the two upper bounds on ε(δ); 0 for an empty history.

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    multiset = _multiset(history, delta)
    return min(_epsilon_pld(multiset, delta), _epsilon_rdp(multiset, delta))


def epsilon_rdp(history: History, delta: float) -> float:
    """Returns the Rényi bound on ε(δ), converted by Balle et al. (2020), Theorem 21.

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    return _epsilon_rdp(_multiset(history, delta), delta)


def epsilon_prv(history: History, delta: float) -> float:
    """Returns Opacus's PRV upper estimate of ε(δ) (Gopi et al. 2021), 0.01 above its own middle.

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    multiset = _multiset(history, delta)
    if not multiset:
        return 0.0
    accountant = PRVAccountant()
    accountant.history = [
        (event.noise_multiplier, event.sampling_rate, count) for event, count in multiset
    ]
    with np.errstate(divide="ignore"):  # log(1 − q) at q = 1
        return max(0.0, float(accountant.get_epsilon(delta)))


def report(history: History, delta: float) -> Report:
    """Returns what every accountant says of ε(δ).

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    multiset = _multiset(history, delta)
    bound = _epsilon_pld(multiset, delta)
    prv = epsilon_prv(history, delta) if math.isfinite(bound) else math.nan
    return Report(pld=bound, rdp=_epsilon_rdp(multiset, delta), prv=prv)


def calibrate_noise_multiplier(
    target: float, delta: float, sampling_rate: float, steps: int
) -> float:
    """Returns the smallest noise multiplier, to four decimals, that spends at most ε.

    Args:
        target: ε, positive and finite.
        delta: δ in (0, 1).
        sampling_rate: q in (0, 1].
        steps: Releases, at least one.

    Raises:
        UsageError: An argument is out of range, or no multiplier up to 10⁵ does.
    """
    if not 0 < target < math.inf or steps < 1:
        raise UsageError(f"no noise can be chosen for ε = {target:g} and {steps} steps")

    def excess(ten_thousandths: int, bound: Callable[[History, float], float]) -> float:
        event = GaussianEvent(sampling_rate, ten_thousandths / 1e4)
        return math.log(max(bound({event: steps}, delta), _NO_EPSILON) / target)

    # The Rényi bound is quick to compute and never below ε, so its answer is enough noise.
    most = _LARGEST_MULTIPLIER * 1e4
    high = 1
    while high < most and excess(high, epsilon_rdp) > 0:
        high *= 2
    high = _first_negative(partial(excess, bound=epsilon_rdp), high // 2, high)
    if high > most and excess(high, epsilon) > 0:
        raise UsageError(f"no noise reaches ε = {target:g} in {steps} steps at δ = {delta:g}")
    width = 1 + high // 16
    while high > width and excess(high - width, epsilon) <= 0:
        high, width = high - width, 2 * width
    return _first_negative(partial(excess, bound=epsilon), max(0, high - width), high) / 1e4


def affordable_steps(
    history: History, event: GaussianEvent, budget_epsilon: float, delta: float
) -> int:
    """Returns how many more releases a budget covers: at most 2²⁰, and 0 if none.

    Args:
        history: What has been released.
        event: What would be released again and again.
        budget_epsilon: The largest ε(δ) that history and releases may reach together.
        delta: δ in (0, 1).

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """

    def fits(steps: int) -> bool:
        after = dict(history) | {event: history.get(event, 0) + steps}
        return epsilon(after, delta) <= budget_epsilon

    low, high = 0, 1
    while high <= _MOST_STEPS and fits(high):
        low, high = high, 2 * high
    high = min(high, _MOST_STEPS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _first_negative(falling: Callable[[int], float], low: int, high: int) -> int:
    """Returns the first integer above `low`, and up to `high`, where a falling function is ≤ 0.

    `high` is returned untried where none below it is. Regula falsi with the Illinois rule (Dowell
    and Jarratt 1971), which halves the weight of an end that stays.
    """
    above, below = math.inf, -math.inf
    last = 0
    while high - low > 1:
        middle = (low + high) // 2
        if math.isfinite(above) and math.isfinite(below):
            middle = low + round((high - low) * above / (above - below))
        middle = min(max(middle, low + 1), high - 1)
        value = falling(middle)
        if value > 0:
            low, above, below = middle, value, below / 2 if last > 0 else below
        else:
            high, below, above = middle, value, above / 2 if last < 0 else above
        last = 1 if value > 0 else -1
    return high


def _multiset(history: History, delta: float) -> _Multiset:
    """Checks a history and a δ; returns what has been released, in an order of its own."""
    if not 0 < delta < 1:
        raise UsageError(f"δ is {delta}, not between 0 and 1")
    if any(count < 0 for count in history.values()):
        raise UsageError("a history counts fewer than no releases")
    return tuple(sorted(item for item in history.items() if item[1]))


@lru_cache(maxsize=2048)
def _epsilon_rdp(multiset: _Multiset, delta: float) -> float:
    if not multiset:
        return 0.0
    total = sum((count * _rdp(event) for event, count in multiset), np.zeros(len(_RDP_ORDERS)))
    orders = np.array(_RDP_ORDERS)
    bounds = total - (math.log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    # An order that overflows to no number bounds nothing; another order may.
    return max(0.0, float(np.nan_to_num(bounds, nan=math.inf, posinf=math.inf).min()))


@lru_cache(maxsize=4096)
def _rdp(event: GaussianEvent) -> NDArray[np.float64]:
    """Returns the Rényi divergences of one release, at `_RDP_ORDERS`."""
    values = rdp.compute_rdp(
        q=event.sampling_rate,
        noise_multiplier=event.noise_multiplier,
        steps=1,
        orders=_RDP_ORDERS,
    )
    return np.asarray(values, dtype=np.float64)


@lru_cache(maxsize=2048)
def _epsilon_pld(multiset: _Multiset, delta: float) -> float:
    if not multiset:
        return 0.0
    if _epsilon_rdp(multiset, delta) > _WIDEST:
        return math.inf
    releases = tuple(((e.sampling_rate, e.noise_multiplier), count) for e, count in multiset)
    divergences = tuple(_rdp(event) for event, _ in multiset)
    return composed_epsilon(releases, delta, np.array(_RDP_ORDERS), divergences)
