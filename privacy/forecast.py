"""What a plan will cost a site, before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hortus.privacy.accounting import (
    Report,
    affordable_steps,
    epsilon,
    report,
)
from hortus.privacy.events import GaussianEvent, History


@dataclass(frozen=True, slots=True)
class SiteBudget:
    """What a site allows for a dataset, and what it has spent of it.

    Attributes:
        site: Whose.
        epsilon: Largest ε over all plans.
        delta: δ at which ε is computed.
        history: What was released from the dataset before.
        unbounded: Whether something was released without noise.
    """

    site: str
    epsilon: float
    delta: float
    history: History
    unbounded: bool = False


@dataclass(frozen=True, slots=True)
class SiteForecast:
    """What a plan does to one budget.

    Attributes:
        budget: The budget.
        before: ε spent so far.
        after: What each accountant says of history and plan together; None without a bound.
        rounds: Whole rounds that the budget covers, perhaps more than the plan has.
    """

    budget: SiteBudget
    before: float
    after: Report | None
    rounds: int

    @property
    def covers(self) -> bool:
        """Whether the plan's whole cost is within the budget."""
        return self.after is not None and self.after.epsilon <= self.budget.epsilon


@dataclass(frozen=True, slots=True)
class PlanCost:
    """The releases of a plan.

    Attributes:
        event: One release; None for a plan without noise.
        per_round: Releases in a round.
        rounds: Rounds.
    """

    event: GaussianEvent | None
    per_round: int
    rounds: int

    def epsilon(self, delta: float) -> float:
        """Returns ε of the whole plan by itself; infinite without noise."""
        if self.event is None:
            return math.inf
        return epsilon({self.event: self.rounds * self.per_round}, delta)

    def forecast(self, budget: SiteBudget) -> SiteForecast:
        """Returns what the plan does to a budget.

        Raises:
            UsageError: The budget's δ is not in (0, 1).
        """
        before = math.inf if budget.unbounded else epsilon(budget.history, budget.delta)
        if self.event is None or budget.unbounded:
            return SiteForecast(budget, before, None, 0)
        after = report(self._after(budget.history, self.rounds), budget.delta)
        steps = affordable_steps(budget.history, self.event, budget.epsilon, budget.delta)
        return SiteForecast(budget, before, after, steps // self.per_round)

    def curve(self, budget: SiteBudget, rounds: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Returns (rounds done, ε) of a budget at so many rounds; empty without a bound."""
        if self.event is None or budget.unbounded:
            return ()
        return tuple(
            (number, epsilon(self._after(budget.history, number), budget.delta))
            for number in rounds
        )

    def attempt(self, delta: float) -> tuple[float, float]:
        """Returns what a failed attempt adds to ε: before the first round, and after the last.

        The plan has noise.
        """
        assert self.event is not None, "a plan without noise has no bound"  # noqa: S101
        steps = self.rounds * self.per_round
        last = epsilon({self.event: steps + 1}, delta) - self.epsilon(delta)
        return epsilon({self.event: 1}, delta), last

    def _after(self, history: History, rounds: int) -> History:
        assert self.event is not None  # noqa: S101 - callers have looked
        steps = history.get(self.event, 0) + rounds * self.per_round
        return dict(history) | {self.event: steps}


def shown_rounds(rounds: int, most: int = 12) -> tuple[int, ...]:
    """Returns at most so many rounds, evenly spread, the last among them."""
    count = min(rounds, most)
    return tuple(sorted({math.ceil(rounds * part / count) for part in range(1, count + 1)}))
