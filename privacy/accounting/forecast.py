"""What a plan will cost a site, before anything runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hortus.privacy.accounting.accountant import (
    Report,
    affordable_steps,
    epsilon,
    report,
)
from hortus.privacy.accounting.events import GaussianEvent, History
from hortus.protocol.plan import Agreement


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
        after: What each accountant says of history and plan together, with all spare attempts used;
            None without a bound.
        rounds: Rounds of the plan that the budget covers whole, if no attempt fails.
        spare: Spare attempts of the plan that it covers beyond them.
    """

    budget: SiteBudget
    before: float
    after: Report | None
    rounds: int
    spare: int

    @property
    def covers(self) -> bool:
        """Whether the plan's whole cost, with all spare attempts used, is within the budget."""
        return self.after is not None and self.after.epsilon <= self.budget.epsilon


@dataclass(frozen=True, slots=True)
class PlanCost:
    """The releases of a plan.

    Attributes:
        event: One release; None for a plan without noise.
        per_round: Releases in a round.
        rounds: Rounds.
        per_attempt: Releases of one attempt at a secure sum.
        spare: Attempts beyond one for each sum.
    """

    event: GaussianEvent | None
    per_round: int
    rounds: int
    per_attempt: int
    spare: int

    @classmethod
    def of(cls, event: GaussianEvent | None, plan: Agreement) -> "PlanCost":
        """Returns the cost of a plan whose releases are such events."""
        training = plan.training
        return cls(
            event,
            training.releases_per_round,
            training.rounds,
            training.local_steps,
            plan.spare_attempts,
        )

    @property
    def steps(self) -> int:
        """Releases if no attempt fails."""
        return self.rounds * self.per_round

    @property
    def releases(self) -> int:
        """Releases if every spare attempt is used."""
        return self.steps + self.spare * self.per_attempt

    def epsilon(self, delta: float) -> float:
        """Returns ε of the whole plan alone, all spare attempts used; infinite without noise."""
        return self._alone(self.releases, delta)

    def epsilon_unspared(self, delta: float) -> float:
        """Returns ε of the whole plan alone if no attempt fails; infinite without noise."""
        return self._alone(self.steps, delta)

    def forecast(self, budget: SiteBudget) -> SiteForecast:
        """Returns what the plan does to a budget.

        Raises:
            UsageError: The budget's δ is not in (0, 1).
        """
        before = math.inf if budget.unbounded else epsilon(budget.history, budget.delta)
        if self.event is None or budget.unbounded:
            return SiteForecast(budget, before, None, 0, 0)
        after = report(self._after(budget.history, self.releases), budget.delta)
        if after.epsilon <= budget.epsilon:
            return SiteForecast(budget, before, after, self.rounds, self.spare)
        steps = affordable_steps(budget.history, self.event, budget.epsilon, budget.delta)
        rounds = min(steps // self.per_round, self.rounds)
        spare = min((steps - rounds * self.per_round) // self.per_attempt, self.spare)
        return SiteForecast(budget, before, after, rounds, spare if rounds == self.rounds else 0)

    def curve(self, budget: SiteBudget, rounds: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """Returns (rounds done, ε) of a budget at this many rounds; empty without a bound."""
        if self.event is None or budget.unbounded:
            return ()
        return tuple(
            (number, epsilon(self._after(budget.history, number * self.per_round), budget.delta))
            for number in rounds
        )

    def attempt(self, delta: float) -> tuple[float, float]:
        """Returns what a failed attempt adds to ε: before the first round, and after the last.

        The plan has noise.
        """
        assert self.event is not None, "a plan without noise has no bound"  # noqa: S101
        one = self.per_attempt
        last = self._alone(self.steps + one, delta) - self.epsilon_unspared(delta)
        return self._alone(one, delta), last

    def _alone(self, releases: int, delta: float) -> float:
        return math.inf if self.event is None else epsilon({self.event: releases}, delta)

    def _after(self, history: History, releases: int) -> History:
        assert self.event is not None  # noqa: S101 - callers have looked
        return dict(history) | {self.event: history.get(self.event, 0) + releases}


def shown_rounds(rounds: int, most: int = 12) -> tuple[int, ...]:
    """Returns at most this many rounds, evenly spread, the last among them."""
    count = min(rounds, most)
    return tuple(sorted({math.ceil(rounds * part / count) for part in range(1, count + 1)}))
