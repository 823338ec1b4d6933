"""A ledger is read beside the agent that writes it, without its key and without waiting for it."""

import math
from pathlib import Path

import pytest
from helpers.charges import approve, make_charge

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.decisions import Granted
from hortus.privacy.ledger.spending import Spending, count_entries, read_spending
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity
from hortus.protocol.policy import Budget
from hortus.runtime.errors import HortusError

EVENT = GaussianEvent(1.0, 4.0)
RUN, OTHER = "0" * 32, "9" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_ledger_that_is_not_there_has_spent_nothing(path: Path) -> None:
    assert read_spending(path, RUN) == Spending(0, 0.0, {}, 0.0)


def test_rounds_of_the_run_are_told_and_charges_of_all_runs(path: Path) -> None:
    ledger = approve(Ledger.open(path, Identity.generate("ash"), lambda: 1.8e9))
    ledger.record(Granted("d" * 64, 2.5, "the board"))
    budget = Budget(epsilon=50, delta=1e-5)
    for step, (run, round_) in enumerate([(RUN, 0), (OTHER, 0), (RUN, 1), (RUN, 1)]):
        session = ("1" if run == RUN else "2") * 32
        ledger.charge(make_charge(run=run, session=session, round=round_, step=step), budget)
        assert count_entries(path) == 3 + step
    spent = [epsilon({EVENT: releases}, 1e-5) for releases in (1, 4)]
    assert read_spending(path, RUN) == Spending(4, spent[1], dict(enumerate(spent)), 2.5)
    assert read_spending(path, "7" * 32).after_round == {}
    ledger.close()
    assert count_entries(path) == 6


def test_no_noise_is_no_bound(path: Path) -> None:
    ledger = approve(Ledger.open(path, Identity.generate("ash"), lambda: 1.8e9))
    ledger.charge(make_charge(mode="unsafe_none", mechanism="none", noise_multiplier=0), None)
    ledger.close()
    assert read_spending(path, RUN).epsilon == math.inf


@pytest.mark.parametrize(
    "content", [b"", b"no database at all", b"SQLite format 3\x00" + bytes(84)]
)
def test_what_is_no_ledger_is_said_with_its_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read in (count_entries, lambda path: read_spending(path, RUN)):
        with pytest.raises(HortusError, match="the ledger cannot be read") as caught:
            read(path)
        assert caught.value.where == str(path)
