"""What the server recorded and what the sites charged are the same, or it is said who lacks what."""

from dataclasses import replace

import pytest
from helpers.charges import make_charge

from hortus.privacy.audit.auditor import Audit, Refusal
from hortus.privacy.audit.reconcile import AttemptRecord, ServerRecord, departed, omissions
from hortus.privacy.ledger.charges import Charge

RUN, SESSION = "0" * 32, "1" * 32
SITES = ("ash", "birch")
CHARGE = make_charge(run=RUN, session=SESSION)
LOCAL = replace(CHARGE, mode="local")
SUMS = tuple(AttemptRecord(SESSION, step, 0, SITES, SITES, complete=True) for step in range(2))
RECORD = ServerRecord(RUN, CHARGE.plan, {SESSION: SITES}, SUMS)
WHOLE = (CHARGE, replace(CHARGE, step=1))


def _audit(site: str, *charges: Charge) -> Audit:
    return Audit(site, "", "", len(charges), (0, ""), 0, 0.0, *[()] * 5, charges, {}, {})


def _found(
    ash: tuple[Charge, ...],
    birch: tuple[Charge, ...] = WHOLE,
    record: ServerRecord = RECORD,
    after: ServerRecord | None = None,
) -> list[tuple[str, str]]:
    audits = [_audit("ash", *ash), _audit("birch", *birch)]
    return [(o.site, o.problem) for o in omissions(record, audits, after)]


def test_a_run_in_which_everybody_charged_everything_lacks_nothing() -> None:
    assert _found(WHOLE) == []
    # Other runs are explained, and so is an attempt that was begun and came to no end.
    more = (*WHOLE, replace(CHARGE, step=2), replace(CHARGE, run="9" * 32, session="9" * 32))
    begun = replace(SUMS[0], step=2, heard=(), complete=False)
    assert _found(more, record=replace(RECORD, attempts=(*SUMS, begun))) == []
    assert len(_found(more)) == 1


@pytest.mark.parametrize("first", [1, 5])
def test_a_session_may_begin_within_a_round(first: int) -> None:
    """It resumes after the last sum that was durable when the server died."""
    charged = replace(CHARGE, step=first)
    record = replace(RECORD, attempts=(replace(SUMS[0], step=first),))
    assert _found((charged,), (charged,), record) == []


def test_a_release_that_no_ledger_charged_is_found() -> None:
    ((site, problem),) = _found((CHARGE,))
    assert site == "ash"
    assert "step 1, attempt 0; its ledger has no charge for it" in problem


@pytest.mark.parametrize(
    ("charge", "problem"),
    [
        (replace(CHARGE, session="7" * 32), "session 77777777, unknown to the server"),
        (replace(CHARGE, step=3), "it charged step 3, attempt 0 of session 11111111"),
        (replace(CHARGE, attempt=1), "it charged step 0, attempt 1 of session 11111111"),
        (
            replace(CHARGE, step=1, plan="f" * 64),
            "under plan ffffffffffffffff, but the run's plan is eeee",
        ),
    ],
)
def test_a_charge_that_the_server_does_not_know_is_found(charge: Charge, problem: str) -> None:
    ((site, found),) = _found((*WHOLE, charge))
    assert site == "ash"
    assert problem in found


FAILED = AttemptRecord(SESSION, 0, 0, (*SITES, "cedar"), SITES, complete=False)
AGAIN = AttemptRecord(SESSION, 0, 1, SITES, SITES, complete=True)
TRIED = replace(RECORD, attempts=(FAILED, AGAIN))


def test_each_attempt_that_counts_on_the_noise_of_others_needs_its_own_charge() -> None:
    both = (CHARGE, replace(CHARGE, attempt=1))
    assert _found(both, both, TRIED) == []
    for missing in range(2):
        ((site, problem),) = _found((both[1 - missing],), both, TRIED)
        assert (site, f"step 0, attempt {missing};" in problem) == ("ash", True)


def test_noise_of_its_own_is_charged_once_and_not_after_it_left() -> None:
    late = replace(LOCAL, attempt=1)
    assert _found((LOCAL,), (LOCAL,), TRIED) == []
    # A site of which the first attempt has nothing charges the second.
    without_ash = replace(FAILED, heard=("birch",))
    assert _found((late,), (LOCAL,), replace(RECORD, attempts=(without_ash, AGAIN))) == []
    ((site, problem),) = _found((late,), (LOCAL,), TRIED)
    assert (site, "attempt 0; its ledger has no charge" in problem) == ("ash", True)


def test_a_charge_for_a_sum_that_the_site_had_no_part_in_is_found() -> None:
    alone = replace(RECORD, attempts=(replace(SUMS[0], sites=("birch",), heard=("birch",)),))
    ((site, problem),) = _found((CHARGE,), (CHARGE,), alone)
    assert (site, "took no part in it" in problem) == ("ash", True)


def test_a_record_and_ledgers_that_are_being_written_accuse_nobody() -> None:
    """The record before has less than the ledgers, the one after has all but the open attempt."""
    later = replace(RECORD, attempts=(*SUMS, replace(SUMS[0], step=2), replace(SUMS[0], step=3)))
    read_between = (*WHOLE, replace(CHARGE, step=2), replace(CHARGE, step=3))
    assert _found(read_between, read_between, RECORD, later) == []
    assert _found(read_between, read_between, RECORD) != []
    assert _found(read_between[:3], read_between, later, later) != []


def test_a_site_whose_ledger_is_not_at_hand_is_not_accused() -> None:
    assert omissions(RECORD, [_audit("birch", *WHOLE)]) == []


def test_what_the_server_says_of_a_refusal_is_held_against_what_the_site_signed() -> None:
    refusals = (
        Refusal(1, 0.0, "p", "", 0, "not approved"),
        Refusal(2, 0.0, "p", RUN, 3, "budget"),
        Refusal(3, 0.0, "p", "9" * 32, 0, "another run's"),
    )
    audits = [replace(_audit("ash"), refusals=refusals)]
    told = [
        (0, "ash", "not approved"),
        (3, "ash", "budget"),
        (3, "ash", "another run's"),
        (1, "birch", "budget"),
    ]
    found = departed(RUN, told, audits)
    assert [one.is_signed for one in found] == [True, True, False, None]
