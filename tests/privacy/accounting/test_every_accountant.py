"""Every accountant: an upper bound, whatever it chooses the noise by; what is charged is the tightest one."""

import json

import pytest
from conftest import PlanWriter

from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import noise_for
from hortus.privacy.accounting.accountant import calibrate_noise_multiplier, epsilon
from hortus.privacy.accounting.accountants.base import Accountant
from hortus.privacy.accounting.accountants.kinds import ACCOUNTANTS
from hortus.privacy.accounting.accountants.pld import PldAccountant
from hortus.privacy.accounting.events import GaussianEvent, History
from hortus.protocol.section import Section
from hortus.runtime.errors import UsageError

every_accountant = pytest.mark.parametrize("kind", ACCOUNTANTS.names())
HISTORIES: tuple[History, ...] = (
    {GaussianEvent(0.05, 0.8): 60},
    {GaussianEvent(1.0, 3.0): 4},
    {GaussianEvent(0.2, 1.1): 7, GaussianEvent(0.01, 0.6): 40},
)


def accountant(kind: str) -> Accountant:
    return ACCOUNTANTS.complete({"kind": kind})


@every_accountant
@pytest.mark.parametrize("history", HISTORIES)
def test_it_never_claims_less_than_what_is_charged(kind: str, history: History) -> None:
    for delta in (1e-3, 1e-7):
        assert accountant(kind).epsilon(history, delta) >= epsilon(history, delta)


@every_accountant
def test_nothing_released_costs_nothing_and_more_noise_costs_less(kind: str) -> None:
    said = accountant(kind).epsilon
    assert said({}, 1e-5) == 0
    costs = [said({GaussianEvent(0.1, noise): 20}, 1e-5) for noise in (0.5, 1.0, 2.0, 8.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


@every_accountant
@pytest.mark.parametrize("target", [0.5, 3.0])
def test_the_noise_that_it_chooses_is_enough_and_hardly_more(kind: str, target: float) -> None:
    said = accountant(kind).epsilon
    found = calibrate_noise_multiplier(target, 1e-5, 0.1, 30, said)
    assert said({GaussianEvent(0.1, found): 30}, 1e-5) <= target
    assert said({GaussianEvent(0.1, found * 0.999): 30}, 1e-5) > target
    assert epsilon({GaussianEvent(0.1, found): 30}, 1e-5) <= target


def test_a_looser_accountant_takes_more_noise_and_is_charged_less(write_plan: PlanWriter) -> None:
    chosen = {}
    for kind in ("pld", "renyi"):
        plan = load_plan(write_plan(privacy={"epsilon": 2.0, "accountant": {"kind": kind}}))
        chosen[kind] = noise_for(plan, 2.0, plan.releases)
    assert chosen["renyi"] > 1.01 * chosen["pld"]


class Boasting(PldAccountant):
    """An accountant that claims half of what releases cost."""

    def epsilon(self, history: History, delta: float) -> float:
        return super().epsilon(history, delta) / 2


def test_one_that_claims_less_than_is_charged_is_refused(
    write_plan: PlanWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan(write_plan(privacy={"epsilon": 2.0}))
    monkeypatch.setattr(ACCOUNTANTS, "parse", lambda _: Boasting())
    with pytest.raises(UsageError, match=r"privacy.accountant: .*a site would be charged"):
        noise_for(plan, 2.0, plan.releases)


@every_accountant
def test_a_contracts_section_is_read_as_it_was_written(kind: str) -> None:
    section = accountant(kind).section
    again = Section.model_validate(json.loads(section.model_dump_json()))
    assert ACCOUNTANTS.parse(again) == accountant(kind)
    assert again.digest() == section.digest()


@pytest.mark.parametrize(
    ("written", "meant"), [("pdl", "pld"), ("rényi", "renyi"), ("renny", "renyi")]
)
def test_an_unknown_accountant_is_refused_with_the_nearest_one(written: str, meant: str) -> None:
    with pytest.raises(UsageError, match="privacy.accountant.kind") as caught:
        ACCOUNTANTS.complete({"kind": written})
    assert f"'{meant}'" in str(caught.value)
