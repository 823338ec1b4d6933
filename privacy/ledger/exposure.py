"""What single units of an account have spent: those that came later less than those always there."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hortus.privacy.ledger.books import Tally
from hortus.privacy.ledger.charges import Charge
from hortus.privacy.ledger.marks import Stay

_MOST_LEVELS = 16


@dataclass(frozen=True, slots=True)
class Exposure:
    """Units that have spent alike.

    Attributes:
        epsilon: What each has spent at most; infinite without privacy.
        units: How many there are.
    """

    epsilon: float
    units: int


def exposures(
    stays: Iterable[Stay], charged: Sequence[tuple[int, Charge]], delta: float
) -> list[Exposure]:
    """Returns how many units have spent how much, most first.

    A unit has spent what was charged between its coming and its going: by composition over the releases
    that were computed with it, none of which the others touched. Where there are very many such spans,
    neighbouring ones are counted together, as if all their units had been there for all of it.

    Args:
        stays: Units by when they came and went.
        charged: The account's charges with the numbers of their entries, in order.
        delta: The δ of every ε.
    """
    numbers = [number for number, _ in charged]
    spans: dict[tuple[int, int], int] = {}
    for stay in stays:
        span = (bisect_right(numbers, stay.after), bisect_right(numbers, stay.until))
        spans[span] = spans.get(span, 0) + stay.count
    found: dict[float, int] = {}
    for (first, last), units in _few(sorted(spans.items())):
        tally = Tally()
        for _, charge in charged[first:last]:
            tally.add(charge)
        spent = tally.epsilon(delta)
        found[spent] = found.get(spent, 0) + units
    return [Exposure(spent, found[spent]) for spent in sorted(found, reverse=True)]


def _few(
    spans: Sequence[tuple[tuple[int, int], int]],
) -> Iterable[tuple[tuple[int, int], int]]:
    """Yields as few spans as are shown, each of which covers those that it stands for."""
    size = -(-len(spans) // _MOST_LEVELS) or 1
    for start in range(0, len(spans), size):
        group = spans[start : start + size]
        first = min(span[0] for span, _ in group)
        last = max(span[1] for span, _ in group)
        yield (first, last), sum(units for _, units in group)
