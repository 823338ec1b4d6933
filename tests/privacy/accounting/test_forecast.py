import math
from dataclasses import replace

import pytest

from hortus.privacy.accounting.accountant import epsilon, report
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.accounting.forecast import PlanCost, SiteBudget, shown_rounds

DELTA = 1e-5
EVENT = GaussianEvent(0.1, 2.0)
COST = PlanCost(EVENT, per_round=3, rounds=4, per_attempt=1, spare=0)
BARE = replace(COST, event=None)


def test_a_fresh_budget_of_the_plans_own_cost_covers_it_and_no_round_more() -> None:
    forecast = COST.forecast(SiteBudget("ash", COST.epsilon(DELTA), DELTA, {}))
    assert forecast.after == report({EVENT: 12}, DELTA)
    assert forecast.before == 0
    assert forecast.rounds == 4
    assert forecast.covers


def test_what_was_spent_before_counts() -> None:
    history = {EVENT: 5, GaussianEvent(0.2, 3.0): 7}
    limit = epsilon({EVENT: 5 + 8, GaussianEvent(0.2, 3.0): 7}, DELTA)
    forecast = COST.forecast(SiteBudget("ash", limit, DELTA, history))
    assert forecast.before == epsilon(history, DELTA)
    assert forecast.rounds == 2, "eight more steps are two whole rounds of three"
    assert not forecast.covers


def test_a_budgets_own_delta_counts() -> None:
    smaller = COST.forecast(SiteBudget("ash", COST.epsilon(DELTA), DELTA / 100, {}))
    assert not smaller.covers


@pytest.mark.parametrize("cost", [COST, BARE])
def test_without_noise_there_is_no_bound(cost: PlanCost) -> None:
    forecast = cost.forecast(SiteBudget("ash", 9.0, DELTA, {}, unbounded=cost.event is not None))
    assert forecast.after is None
    assert forecast.rounds == 0
    assert not forecast.covers
    assert cost.curve(forecast.budget, (1, 2)) == ()
    assert BARE.epsilon(DELTA) == math.inf


def test_the_curve_rises_to_the_plans_cost_from_what_was_spent() -> None:
    curve = COST.curve(SiteBudget("ash", 9.0, DELTA, {EVENT: 6}), (1, 2, 4))
    assert curve == tuple((r, epsilon({EVENT: 6 + 3 * r}, DELTA)) for r in (1, 2, 4))


def test_a_failed_attempt_costs_less_at_the_end_than_alone() -> None:
    alone, last = COST.attempt(DELTA)
    assert alone == epsilon({EVENT: 1}, DELTA)
    assert 0 < last < alone


@pytest.mark.parametrize(("rounds", "most"), [(1, 12), (12, 12), (13, 12), (500, 12), (7, 3)])
def test_the_rounds_shown_are_few_and_end_with_the_last(rounds: int, most: int) -> None:
    shown = shown_rounds(rounds, most)
    assert len(shown) == min(rounds, most)
    assert shown[-1] == rounds
    assert shown[0] >= 1


@pytest.mark.parametrize("per_attempt", [1, 3], ids=["gradients", "deltas"])
@pytest.mark.parametrize("paid", range(5))
def test_a_budget_covers_the_rounds_before_the_spare_attempts(per_attempt: int, paid: int) -> None:
    cost = replace(COST, per_attempt=per_attempt, spare=4)
    limit = epsilon({EVENT: 12 + paid * per_attempt}, DELTA)
    forecast = cost.forecast(SiteBudget("ash", limit, DELTA, {}))
    assert (forecast.rounds, forecast.spare, forecast.covers) == (4, paid, paid == 4)
    assert forecast.after == report({EVENT: 12 + 4 * per_attempt}, DELTA)


def test_spare_attempts_are_not_counted_before_all_rounds_are_covered() -> None:
    cost = replace(COST, spare=4)
    forecast = cost.forecast(SiteBudget("ash", epsilon({EVENT: 11}, DELTA), DELTA, {}))
    assert (forecast.rounds, forecast.spare) == (3, 0)
    assert cost.epsilon_unspared(DELTA) == COST.epsilon(DELTA) < cost.epsilon(DELTA)
