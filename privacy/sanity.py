"""Numbers of a plan that are allowed, and that an expert would ask about."""

import math

from hortus.privacy.accounting.events import History
from hortus.privacy.attacks.detection import true_positive_bound_of
from hortus.protocol.plan import Contract

# The usual advice is a δ well below 1/n (Near et al., NIST SP 800-226, 2025): at 1/n, a mechanism that publishes one
# unit at random is within the promise.
_MOST_DELTA_OF_ALL = 0.1
_LARGE_EPSILON = 10.0
_FALSE_ALARMS = 0.01
_FEW_UNITS = 4.0
# Beyond this factor, q and the noise were chosen for a dataset of another size.
_OTHER_SIZE = 3.0


def doubts(
    contract: Contract,
    history: History,
    epsilon: float,
    invited: int | None,
    units: int | None = None,
) -> tuple[str, ...]:
    """Returns a sentence for each number of a plan that deserves a second look.

    Args:
        contract: The plan's binding part.
        history: The releases of the whole plan; empty without noise.
        epsilon: What they cost at the plan's δ; infinite without noise.
        invited: Sites that may take part; None where that is not known.
        units: Units in a site's own data, for its operator's eyes only; None elsewhere.
    """
    found = [*_of_privacy(contract, history, epsilon), *_of_size(contract, units)]
    minimum = contract.cohort.minimum
    if invited is not None and invited == minimum:
        found.append(
            f"cohort.minimum: {minimum} is the number of all sites, so the run waits whenever one of them is "
            "down. A smaller "
            "minimum lets the run continue without it, for a little more noise from each site."
        )
    return tuple(found)


def _of_privacy(contract: Contract, history: History, epsilon: float) -> list[str]:
    if math.isinf(epsilon):
        return []  # said elsewhere, and louder
    privacy, training, found = contract.privacy, contract.training, []
    expected = privacy.delta * training.nominal_units
    if expected > _MOST_DELTA_OF_ALL:
        fitting = 10.0 ** math.floor(math.log10(_MOST_DELTA_OF_ALL / training.nominal_units))
        found.append(
            f"privacy.delta: {privacy.delta:g} is large for the {training.nominal_units:,} units that the "
            "plan assumes (training.nominal_units): to publish each unit in full with that probability, "
            f"{expected:.2g} of them, would keep the promise. {fitting:g} or less is usual."
        )
    if epsilon > _LARGE_EPSILON:
        bound = true_positive_bound_of(history, _FALSE_ALARMS)
        found.append(
            f"ε = {epsilon:.3g} is large: an attacker who is wrong about 1 % of the others may be right about "
            f"up to {_share(bound)} of the units. Up to 8 is usual in practice, and 1 is strong."
        )
    return found


def _of_size(contract: Contract, units: int | None) -> list[str]:
    training, found = contract.training, []
    drawn = training.sampling_rate * training.nominal_units
    if drawn < _FEW_UNITS:
        found.append(
            f"training.sampling_rate: {training.sampling_rate:g} of {training.nominal_units:,} units is "
            f"{drawn:.2g} a step and site: most of a step's sum is noise."
        )
    if units is None:
        return found
    apart = units / training.nominal_units
    if apart > _OTHER_SIZE or apart < 1 / _OTHER_SIZE:
        found.append(
            f"training.nominal_units: the plan assumes {training.nominal_units:,} units at a site, and this "
            f"site has {units:,}, so a step draws about {training.sampling_rate * units:.3g} of them rather "
            "than "
            f"{drawn:.3g}. The promise holds all the same; {'they' if apart < 1 else 'the others'} count for "
            "little in the result. Only you see this number."
        )
    return found


def _share(bound: float) -> str:
    return "all" if bound > 0.995 else f"{100 * bound:.0f} %"
