"""Accounts of virtual sites: what each was charged, however the others were."""

import math
from pathlib import Path

import pytest

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.runtime.errors import HortusError
from hortus.server.run.accounts import ACCOUNTS, Accounts, read_accounts

EVENT, OTHER = GaussianEvent(0.5, 2.0), GaussianEvent(0.5, 1.9)
DELTA = 1e-5
BUDGETS = {"cedar": 8.0, "ash": 8.0, "birch": 3.0}


def opened(directory: Path) -> Accounts:
    return Accounts.open(directory, BUDGETS, DELTA)


def test_sites_that_are_charged_alike_share_an_account(tmp_path: Path) -> None:
    accounts = opened(tmp_path)
    accounts.charge(("ash", "birch", "cedar"), EVENT, 1, 0)
    assert [one.sites for one in read_accounts(tmp_path)] == [("ash", "cedar"), ("birch",)]
    accounts.charge(("ash", "birch"), EVENT, 2, 1)
    found = {site: one for one in read_accounts(tmp_path) for site in one.sites}
    assert sorted(found) == sorted(BUDGETS)
    steps = {site: one.history[0][2] for site, one in found.items()}
    assert steps == {"ash": 3, "birch": 3, "cedar": 1}
    assert {site: one.charges for site, one in found.items()} == {"ash": 2, "birch": 2, "cedar": 1}


def test_epsilon_is_the_accountants_whatever_the_cohorts_were(tmp_path: Path) -> None:
    accounts = opened(tmp_path)
    accounts.charge(("ash", "cedar"), EVENT, 3, 0)
    accounts.charge(("ash",), OTHER, 2, 1)
    spent = accounts.epsilon()
    assert list(spent) == sorted(BUDGETS)
    assert spent["ash"] == epsilon({EVENT: 3, OTHER: 2}, DELTA)
    assert spent["cedar"] == epsilon({EVENT: 3}, DELTA)
    assert spent["birch"] == 0.0
    rounds = {site: one.after_round for one in read_accounts(tmp_path) for site in one.sites}
    assert rounds["ash"] == {0: epsilon({EVENT: 3}, DELTA), 1: spent["ash"]}
    assert rounds["birch"] == {}


def test_a_charge_that_is_taken_back_leaves_the_account_as_it_was(tmp_path: Path) -> None:
    accounts = opened(tmp_path)
    accounts.charge(tuple(BUDGETS), EVENT, 2, 0)
    before = accounts.epsilon()
    accounts.charge(tuple(BUDGETS), OTHER, 2, 0)
    accounts.take_back(("birch", "cedar"))
    assert accounts.epsilon() == before | {"ash": accounts.epsilon()["ash"]}
    assert accounts.epsilon()["ash"] > before["ash"]
    for site in ("birch", "cedar"):
        (own,) = (one for one in read_accounts(tmp_path) if site in one.sites)
        assert (own.charges, own.after_round) == (1, {0: before[site]})


def test_a_site_is_refused_the_step_that_would_exceed_its_budget(tmp_path: Path) -> None:
    accounts, steps = opened(tmp_path), 0
    while not (refused := accounts.refusals(tuple(BUDGETS), EVENT, 1)):
        accounts.charge(tuple(BUDGETS), EVENT, 1, steps)
        steps += 1
    assert list(refused) == ["birch"]
    assert epsilon({EVENT: steps}, DELTA) <= 3.0 < epsilon({EVENT: steps + 1}, DELTA)
    assert "budget is spent" in refused["birch"]
    assert accounts.refusals(("ash", "cedar"), EVENT, 1) == {}


def test_without_noise_there_is_no_bound_and_no_price(tmp_path: Path) -> None:
    accounts = opened(tmp_path)
    accounts.charge(("ash",), None, 1, 0)
    assert accounts.epsilon() == {"ash": math.inf, "birch": 0.0, "cedar": 0.0}
    assert accounts.refusals(tuple(BUDGETS), None, 1) == {}
    accounts.take_back(("ash",))
    assert accounts.epsilon()["ash"] == 0.0


def test_another_start_finds_them(tmp_path: Path) -> None:
    opened(tmp_path).charge(("ash",), EVENT, 4, 0)
    assert opened(tmp_path).epsilon()["ash"] == epsilon({EVENT: 4}, DELTA)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        b'[{"sites":[],"budget":1,"delta":1e-5}]',
        b'[{"sites":["ash"],"budget":-1,"delta":1e-5}]',
        b'[{"sites":["ash"],"budget":1,"delta":1e-5,"charges":-1}]',
    ],
)
def test_damaged_accounts_are_named(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / ACCOUNTS).write_bytes(damaged)
    with pytest.raises(HortusError, match=ACCOUNTS):
        opened(tmp_path)
