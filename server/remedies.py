"""What to do so that enough sites take part in a run again."""

import math
from collections.abc import Callable, Iterator, Mapping

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.step import PrivateStep
from hortus.protocol.answer import BUDGET_SPENT
from hortus.protocol.plan import Contract
from hortus.protocol.privacy import Noise
from hortus.server.run.store import RunStore

_SHOWN = 4  # sites


def charged(store: RunStore, contract: Contract) -> int:
    """Returns the private steps that a site in every attempt so far was charged for.

    With distributed noise it pays for each attempt; with local noise once for each sum of a session.
    """
    sums, attempts = store.tried
    distributed = contract.privacy.noise is Noise.DISTRIBUTED
    return (attempts if distributed else sums) * contract.training.local_steps


def remedies(
    store: RunStore,
    encoding: PrivateStep,
    refusals: Mapping[str, str],
    site_folder: Callable[[str], str],
    *,
    is_slow: bool,
) -> Iterator[str]:
    """Yields what to do, a sentence or a command at a time.

    Args:
        store: The run so far.
        encoding: A sum of the smallest cohort.
        refusals: Why sites would not take part, by name.
        site_folder: Where a site's folder is, as its operator's shell takes it.
        is_slow: Whether sites may only have been too slow.
    """
    kept = store.next_round
    yield f"The adapter after round {kept} is kept." if kept else "No round was finished."
    spent = sorted(site for site, why in refusals.items() if BUDGET_SPENT in why)
    if spent and encoding.event is not None:
        amount = _rest(store, encoding)
        yield "What remains needs more budget, which a site's operator may grant:\n"
        for site in spent[:_SHOWN]:
            folder = site_folder(site)
            yield f"  hortus budget grant {folder} --epsilon {amount:.2g} --reason WHY\n"
        if len(spent) > _SHOWN:
            yield f"  … and likewise at {len(spent) - _SHOWN} more sites\n"
    yield "Run the same command again once enough sites would take part; it resumes the run."
    if is_slow:
        yield "If sites are only slow, the plan needs a longer cohort.join_deadline."


def _rest(store: RunStore, encoding: PrivateStep) -> float:
    """Returns what the sums still to be made add to ε, with as many spare attempts, rounded up."""
    contract = encoding.contract
    assert encoding.event is not None  # noqa: S101 - there is no budget to spend without noise
    training, delta = contract.training, contract.privacy.delta
    done = store.next_round * training.steps_per_round + store.next_sum
    ahead = (contract.sums - done + contract.spare_attempts) * training.local_steps
    so_far = charged(store, contract)
    before, after = (epsilon({encoding.event: steps}, delta) for steps in (so_far, so_far + ahead))
    unit = 10.0 ** (math.floor(math.log10(max(after - before, 1e-9))) - 1)
    return math.ceil((after - before) / unit) * unit
