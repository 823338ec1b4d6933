"""Privacy accounting: events are data, accountants are functions of their multiset.

Neighbouring datasets differ by one unit added or removed. A step is a Poisson-subsampled Gaussian;
its privacy loss distribution is composed numerically (Koskela et al. 2020; Doroshenko et al. 2022,
whose connect-the-dots discretisation makes the result an upper bound), separately for adding and for removing a unit,
since subsampling makes the two differ. Rényi DP (Mironov et al. 2019) gives a second upper bound. ε is the smaller of
the two; the second is used only where the first gives up. Opacus's
PRV accountant is a cross-check only: it prices one of the two directions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from hortus.privacy.accounting.composition import Releases, composed_epsilon, renyi_bound
from hortus.privacy.accounting.events import GaussianEvent, History
from hortus.runtime.errors import UsageError

_LARGEST_MULTIPLIER = 1e7
_LEAST_MULTIPLIER = 1e-2
_CALIBRATED = 2.5e-4  # relative
_MOST_STEPS = 2**20
_NO_EPSILON = 1e-12  # stands for ε = 0 where a logarithm is taken
_WIDEST = 200.0  # the PRV accountant takes long for more
Excess = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Report:
    """What three accountants say about one history.

    Attributes:
        pld: Upper bound by privacy loss distributions; infinite if it is too wide to be worth computing.
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
    bound = composed_epsilon(multiset, delta) if multiset else 0.0
    return bound if math.isfinite(bound) else renyi_bound(multiset, delta)


def epsilon_rdp(history: History, delta: float) -> float:
    """Returns the Rényi bound on ε(δ), converted by Balle et al. (2020), Theorem 21.

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    return renyi_bound(_multiset(history, delta), delta)


def epsilon_prv(history: History, delta: float) -> float:
    """Returns Opacus's PRV upper estimate of ε(δ) (Gopi et al. 2021), 0.01 above its own middle.

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    # With it come its optimizers and torch.distributed: seconds that no other accountant needs.
    from opacus.accountants import PRVAccountant  # noqa: PLC0415

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
    """Returns what every accountant says about ε(δ).

    Raises:
        UsageError: δ is not in (0, 1), or a count is negative.
    """
    multiset = _multiset(history, delta)
    bound = composed_epsilon(multiset, delta) if multiset else 0.0
    prv = epsilon_prv(history, delta) if bound <= _WIDEST else math.nan
    return Report(pld=bound, rdp=renyi_bound(multiset, delta), prv=prv)


def calibrate_noise_multiplier(
    target: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    bound: Callable[[History, float], float] = epsilon,
) -> float:
    """Returns the smallest noise multiplier that spends at most ε, within a thousandth.

    Args:
        target: ε, positive and finite.
        delta: δ in (0, 1).
        sampling_rate: q in (0, 1].
        steps: Releases, at least one.
        bound: Bounds ε(δ) of releases.

    Raises:
        UsageError: An argument is out of range, δ covers that a unit is sampled at all, or no
            multiplier up to 10⁷ does.
    """
    _check_target(target, delta, sampling_rate, steps)

    def excess(log_multiplier: float, bound: Callable[[History, float], float] = bound) -> float:
        event = GaussianEvent(sampling_rate, math.exp(log_multiplier))
        return math.log(max(bound({event: steps}, delta), _NO_EPSILON) / target)

    enough = _enough(excess, lambda log_multiplier: excess(log_multiplier, epsilon_rdp))
    if enough is None:
        raise UsageError(f"no noise reaches ε = {target:g} in {steps} steps at δ = {delta:g}")
    bracket = _bracket(excess, enough)
    if bracket is None:
        return _LEAST_MULTIPLIER
    found = math.exp(brentq(excess, *bracket, xtol=_CALIBRATED / 2))
    digit = 10.0 ** (math.floor(math.log10(found)) - 4)
    multiples = math.ceil(found / digit)
    while excess(math.log(multiples * digit)) > 0:
        multiples += max(1, round(_CALIBRATED * multiples))
    return float(f"{multiples * digit:.5g}")


def _check_target(target: float, delta: float, sampling_rate: float, steps: int) -> None:
    if not 0 < target < math.inf or steps < 1:
        raise UsageError(f"no noise can be chosen for ε = {target:g} and {steps} steps")
    sampled = 1.0 if sampling_rate == 1 else -math.expm1(steps * math.log1p(-sampling_rate))
    if sampled <= delta:
        raise UsageError(
            f"δ = {delta:g} would allow every sampled unit to be published: with q = "
            f"{sampling_rate:g} a unit is in any of {steps} samples with probability {sampled:.2g}",
            remedy="Choose a δ far below that probability, and below 1 / the number of units.",
        )


def _enough(excess: Excess, quick: Excess) -> float | None:
    """Returns a log-multiplier, not far from the smallest, with no excess; None if no multiplier up to 10⁷ has no excess.

    Args:
        excess: log(ε / target) at a log-multiplier; it falls as that rises.
        quick: The same of the Rényi bound, quick to compute and hardly ever below another.
    """
    largest = math.log(_LARGEST_MULTIPLIER)
    low, high = math.log(_LEAST_MULTIPLIER), largest
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (low, middle) if quick(middle) <= 0 else (middle, high)
    most = excess(high)
    while most > 0 and high < largest:
        high = min(largest, high + max(0.05, most))
        most = excess(high)
    return high if most <= 0 else None


def _bracket(excess: Excess, enough: float) -> tuple[float, float] | None:
    """Returns log-multipliers with and without excess, in this order; None if even the least has none."""
    smallest, low = math.log(_LEAST_MULTIPLIER), enough
    high, most = enough, excess(enough)
    # ε falls at least as fast as the multiplier rises.
    while most <= 0 and low > smallest:
        high, low = low, max(smallest, low + min(most, -0.01))
        most = excess(low)
    return None if most <= 0 else (low, high)


def affordable_steps(
    history: History, event: GaussianEvent, budget_epsilon: float, delta: float
) -> int:
    """Returns how many more releases a budget covers, from 0 to 2²⁰.

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


def _multiset(history: History, delta: float) -> Releases:
    """Checks a history and a δ; returns what has been released, in an order of its own."""
    if not 0 < delta < 1:
        raise UsageError(f"δ is {delta}, not between 0 and 1")
    if any(count < 0 for count in history.values()):
        raise UsageError("a history has a negative number of releases")
    return tuple(sorted(item for item in history.items() if item[1]))
