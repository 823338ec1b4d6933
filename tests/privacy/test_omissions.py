"""What the server recorded and what the sites charged are the same, or it is said who lacks what."""

from dataclasses import replace

import pytest
from helpers.charges import make_charge

from hortus.privacy.audit import Audit, Refusal
from hortus.privacy.entries import Charge
from hortus.privacy.omissions import SumRecord, departed, omissions

RUN, SESSION = "0" * 32, "1" * 32
SITES = ("ash", "birch")
CHARGE = make_charge(run=RUN, session=SESSION)


def _audit(site: str, *charges: Charge) -> Audit:
    return Audit(site, "", "", len(charges), (0, ""), 0, 0.0, (), (), (), (), charges, {})


SUMS = [SumRecord(SESSION, step, 0, SITES) for step in range(2)]
WHOLE = (CHARGE, replace(CHARGE, step=1))


def _found(ash: tuple[Charge, ...], birch: tuple[Charge, ...] = WHOLE) -> list[tuple[str, str]]:
    audits = [_audit("ash", *ash), _audit("birch", *birch)]
    return [(o.site, o.problem) for o in omissions(RUN, {SESSION: SITES}, SUMS, audits)]


def test_a_run_in_which_everybody_charged_everything_lacks_nothing() -> None:
    assert _found(WHOLE) == []
    # Attempts that came to nothing, the step after the last, and other runs are explained.
    more = (
        replace(CHARGE, attempt=1),
        replace(CHARGE, step=2),
        replace(CHARGE, run="9", session="9"),
    )
    assert _found((*WHOLE, *more)) == []


def test_a_release_that_no_ledger_charged_is_found() -> None:
    ((site, problem),) = _found((CHARGE,))
    assert site == "ash"
    assert "step 1; its ledger has no charge for it" in problem


@pytest.mark.parametrize(
    ("charge", "problem"),
    [
        (replace(CHARGE, session="7" * 32), "session 77777777, unknown to the server"),
        (replace(CHARGE, step=3), "it charged step 3 of session 11111111"),
    ],
)
def test_a_charge_that_the_server_does_not_know_is_found(charge: Charge, problem: str) -> None:
    ((site, found),) = _found((*WHOLE, charge))
    assert site == "ash"
    assert problem in found


def test_a_site_whose_ledger_is_not_at_hand_is_not_accused() -> None:
    assert omissions(RUN, {SESSION: SITES}, SUMS, [_audit("birch", *WHOLE)]) == []


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
