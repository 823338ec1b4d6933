"""When a site was away, why, and whether it came back: what a run's refusals and rounds tell together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hortus.server.run.records import Departure, RoundRecord


@dataclass(frozen=True, slots=True)
class Absence:
    """A time that a site refused or was gone.

    Attributes:
        site: Who.
        since: The first round without it, from 1.
        reason: The last that was given: what is to be done about it.
        back: The first round that it was in again, from 1; None: it has not come back.
    """

    site: str
    since: int
    reason: str
    back: int | None

    @property
    def in_words(self) -> str:
        """Whether it came back, and when."""
        return "away" if self.back is None else f"came back in round {self.back}"


def absences(departures: Iterable[Departure], rounds: Sequence[RoundRecord]) -> tuple[Absence, ...]:
    """Makes one of all that was noted of a site until it was in a sum again.

    Args:
        departures: In the order in which they were noted.
        rounds: Finished rounds, in order.

    Returns:
        Absences in the order in which they began.
    """
    found: list[Absence] = []
    open_: dict[str, int] = {}
    for one in departures:
        last = open_.get(one.site)
        if last is not None and (back := found[last].back) is not None and back <= one.round:
            last = None
        if last is None:
            open_[one.site], since = len(found), one.round + 1
            found.append(Absence(one.site, since, one.reason, _back(one, rounds)))
        else:
            found[last] = Absence(one.site, found[last].since, one.reason, _back(one, rounds))
    return tuple(found)


def _back(departure: Departure, rounds: Sequence[RoundRecord]) -> int | None:
    """Returns the round, from 1, in which a site that had left was in a sum again."""
    later = (record for record in rounds if record.round >= departure.round)
    return next((record.round + 1 for record in later if departure.site in record.sites), None)
