"""A budget follows people: a file that changes inherits, and only a statement opens an account."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.charges import approve, make_charge, make_content

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.auditor import Audit, audit
from hortus.privacy.audit.evidence import read_evidence
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.decisions import Disjoint, Frozen, Granted, Unfrozen
from hortus.privacy.ledger.entries import Entry
from hortus.privacy.ledger.marks import Content
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget, PeriodBudget
from hortus.runtime.errors import Refused, UsageError
from hortus.runtime.faults import SWITCH, Fault
from hortus.runtime.names import SERVER

SITE = Identity.generate("ash")
ROSTER = Roster({"ash": SITE.public_key_bytes}, Identity.generate(SERVER).public_key_bytes)
DELTA = 1e-5
CHARGE = make_charge()
BUDGET = Budget(epsilon=1000.0, delta=DELTA)
A, A2, A3, B, B2 = ("a" * 64, "a2" * 32, "a3" * 32, "b" * 64, "b2" * 32)


def cost(releases: int) -> float:
    """ε of so many releases."""
    return epsilon({GaussianEvent(1.0, 4.0): releases}, DELTA)


def _open(path: Path) -> Ledger:
    return Ledger.open(path, SITE, lambda: 1.8e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(_open(path)) as opened:
        yield opened


def release(ledger: Ledger, content: Content, budget: Budget = BUDGET, **changes: object) -> Entry:
    """Releases once from a content, as an agent does: it looks at its records first."""
    ledger.follow(content)
    step = ledger.head()[0]
    charge = replace(CHARGE, dataset=content.dataset, unit=content.unit, step=step)
    return ledger.charge(replace(charge, **changes), budget)  # type: ignore[arg-type]


def audited(path: Path) -> Audit:
    """What an auditor finds."""
    evidence = read_evidence("ash", path, ROSTER, {})
    return audit(evidence, ROSTER)


def test_what_a_patient_of_every_day_has_spent_is_what_the_account_says(path: Path) -> None:
    """A hospital's export grows by a row a day: five files, one account, one budget."""
    budget = Budget(epsilon=cost(12), delta=DELTA)
    people, made = ["Ada"], 0
    for day in range(5):
        with closing(approve(_open(path))) as ledger:  # the agent is started each day
            content = make_content(f"{day}" * 64, *people)
            ledger.follow(content)
            assert ledger.spent(content.dataset, DELTA) == pytest.approx(cost(made) if made else 0)
            for _ in range(3):
                if made < 12:
                    release(ledger, content, budget)
                    made += 1
                else:
                    with pytest.raises(Refused, match="over its budget"):
                        release(ledger, content, budget)
        people.append(f"patient of day {day}")
    with closing(approve(_open(path))) as ledger:
        assert list(ledger.accounts()) == ["0" * 64]
        assert ledger.spent("0" * 64, DELTA) == cost(12) == budget.epsilon
    assert audited(path).first_broken is None


def test_a_content_that_comes_back_continues_its_account(ledger: Ledger) -> None:
    for dataset in (A, A2, A, A3):
        release(ledger, make_content(dataset, "Ada"))
    assert ledger.spent(A, DELTA) == ledger.spent(A3, DELTA) == cost(4)


def test_nothing_is_inherited_twice_and_no_entry_tells_that_the_records_changed(
    ledger: Ledger,
) -> None:
    """The server countersigns heads: their numbers rise by what was released alone."""
    release(ledger, make_content(A, "Ada"))
    ledger.follow(make_content(A2, "Ada", "Ben"))
    ledger.follow(make_content(A3, "Ada"))
    assert ledger.head()[0] == 1
    assert release(ledger, make_content(A2, "Ada", "Ben")).seq == 2


def test_budgets_of_a_plan_and_of_a_period_are_inherited_too(ledger: Ledger) -> None:
    for budget, scope in (
        (Budget(epsilon=100, delta=DELTA, per_plan=cost(1)), "its plan"),
        (Budget(epsilon=100, delta=DELTA, per_period=PeriodBudget(epsilon=cost(1))), "2027"),
    ):
        if not ledger.head()[0]:
            release(ledger, make_content(A, "Ada"), budget)
        with pytest.raises(Refused, match=f"would bring {scope} to"):
            release(ledger, make_content(A2, "Ada", "Ben"), budget)


def test_grants_and_freezes_act_on_all_that_a_dataset_was(ledger: Ledger) -> None:
    release(ledger, make_content(A, "Ada"))
    release(ledger, make_content(A2, "Ada"))
    ledger.record(Granted(A2, 2.0, "the board"))
    assert ledger.granted(A) == ledger.granted(A3) == 2.0
    ledger.record(Frozen(A2, "an incident"))
    for dataset in (A, A2, A3):
        with pytest.raises(Refused, match="frozen"):
            release(ledger, make_content(dataset, "Ada"))
    ledger.record(Unfrozen(A, "closed"))
    release(ledger, make_content(A3, "Ada"))


def apart(ledger: Ledger) -> None:
    """Two accounts: Ada and Ann in one, Bob in the other."""
    release(ledger, make_content(A, "Ada", "Ann"))
    ledger.state_disjoint(make_content(B, "Bob"), [A], "Dr. Ray", "the other ward")
    release(ledger, make_content(B, "Bob"))


def test_a_statement_opens_an_account_and_an_audit_shows_it(path: Path) -> None:
    with closing(approve(_open(path))) as ledger:
        apart(ledger)
        assert ledger.accounts().keys() == {A, B}
        assert ledger.spent(A, DELTA) == ledger.spent(B, DELTA) == cost(1)
        release(ledger, make_content(A2, "Ann", "Amy"))
        release(ledger, make_content(B2, "Bob", "Ben"))
        assert ledger.spent(A, DELTA) == ledger.spent(B, DELTA) == cost(2)
    result = audited(path)
    assert result.first_broken is None
    (statement,) = result.decisions
    assert (statement.kind, statement.dataset, statement.others) == ("disjoint", B, (A,))
    assert (statement.operator, statement.reason) == ("Dr. Ray", "the other ward")
    assert result.accounts == {A: A, A2: A, B: B, B2: B}


@pytest.mark.parametrize(
    ("content", "others", "words"),
    [
        (make_content(B, "Bob", "Ann", "Ada"), [A], "2 of 3 units are in both"),
        (make_content(A, "Ada", "Ann"), [A], "was already released from these records"),
        (make_content(B, "Bob"), [], "it does not mention dataset aaaa"),
    ],
)
def test_a_statement_that_is_not_so_is_refused(
    ledger: Ledger, content: Content, others: list[str], words: str
) -> None:
    release(ledger, make_content(A, "Ada", "Ann"))
    with pytest.raises(UsageError, match=words):
        ledger.state_disjoint(content, others, "Dr. Ray", "the other ward")
    assert ledger.head()[0] == 1


def test_a_statement_that_nobody_can_check_is_refused(ledger: Ledger) -> None:
    ledger.charge(replace(CHARGE, dataset=A), BUDGET)  # its units were never hashed
    with pytest.raises(UsageError, match="nobody can tell"):
        ledger.state_disjoint(make_content(B, "Bob"), [A], "Dr. Ray", "the other ward")


def test_units_that_are_hashed_after_their_release_have_spent_it(ledger: Ledger) -> None:
    ledger.charge(replace(CHARGE, dataset=A), BUDGET)
    ledger.follow(make_content(A, "Ada"))
    (stay,) = ledger.stays(A)
    assert (stay.after, stay.count) == (0, 1)
    with pytest.raises(UsageError, match="1 of 1 units are in both"):
        ledger.state_disjoint(make_content(B, "Ada"), [A], "Dr. Ray", "the other ward")


def test_units_that_were_forgotten_before_their_release_are_taken_for_unknown(
    ledger: Ledger,
) -> None:
    """Two agents: one looks twice more before the other, which saw the first file, charges its step."""
    for dataset, person in ((A, "Ada"), (A2, "Ann"), (A3, "Amy")):
        ledger.follow(make_content(dataset, person))
    ledger.charge(replace(CHARGE, dataset=A), BUDGET)
    with pytest.raises(UsageError, match="not hashed with this site's current key"):
        ledger.state_disjoint(make_content(B, "Ada"), [A], "Dr. Ray", "the other ward")


def test_a_late_charge_is_for_units_that_went_with_a_later_file_too(ledger: Ledger) -> None:
    release(ledger, make_content(A, "Ada", "Bob"))
    release(ledger, make_content(A2, "Ada"))
    release(ledger, make_content(A3, "Cem"))
    late = ledger.charge(replace(CHARGE, dataset=A, step=9), BUDGET)
    assert sum(stay.count for stay in ledger.stays(A) if stay.until >= late.seq) == 3


def test_units_of_other_kinds_meet_by_their_rows(ledger: Ledger) -> None:
    release(ledger, make_content(A, "Ada", "Ann"))
    with pytest.raises(UsageError, match="1 of 2 units are in both"):
        ledger.state_disjoint(
            make_content(B, "Ann", "Bob", unit="patient"), [A], "Dr. Ray", "the other ward"
        )


def test_accounts_that_come_to_share_somebody_are_one_from_the_next_release_on(
    path: Path,
) -> None:
    with closing(approve(_open(path))) as ledger:
        apart(ledger)
        ledger.record(Granted(A, 5.0, "the board"))
        ledger.record(Granted(B, 3.0, "the board"))
        entry = release(ledger, make_content(B2, "Bob", "Ann"))
        assert isinstance(entry.body, Charged)
        assert (entry.body.account, entry.body.joins) == (A, (B,))
        assert list(ledger.accounts()) == [A]
        assert ledger.spent(B, DELTA) == ledger.spent(A, DELTA) == cost(3)
        assert ledger.granted(B) == 3.0  # nobody may spend more than was granted for them
        release(ledger, make_content(B, "Bob"))
        assert ledger.spent(A, DELTA) == cost(4)
    assert audited(path).first_broken is None


def test_accounts_that_would_be_one_count_together_before_anything_is_released(
    ledger: Ledger,
) -> None:
    apart(ledger)
    with pytest.raises(Refused, match="over its budget"):
        release(ledger, make_content(B2, "Bob", "Ann"), Budget(epsilon=cost(2), delta=DELTA))
    release(ledger, make_content(B, "Bob"), Budget(epsilon=cost(2), delta=DELTA))


def test_a_content_that_shares_nobody_with_any_account_inherits_from_all(ledger: Ledger) -> None:
    apart(ledger)
    release(ledger, make_content(A3, "Zoe"))
    assert ledger.spent(A3, DELTA) == cost(3)


def test_a_statement_about_a_content_that_has_changed_since_is_compared_again(
    ledger: Ledger,
) -> None:
    release(ledger, make_content(A, "Ada"))
    ledger.state_disjoint(make_content(B, "Bob"), [A], "Dr. Ray", "the other ward")
    release(ledger, make_content(A2, "Ada", "Bob"))  # he came to the first ward meanwhile
    release(ledger, make_content(B, "Bob"))
    assert list(ledger.accounts()) == [A]
    assert ledger.spent(B, DELTA) == cost(3)


def test_what_was_seen_and_never_released_from_forbids_no_statement(ledger: Ledger) -> None:
    release(ledger, make_content(A, "Ada"))
    ledger.follow(make_content(A2, "Ada", "Bob"))  # by mistake, for a minute
    ledger.follow(make_content(A, "Ada"))
    ledger.state_disjoint(make_content(B, "Bob"), [A], "Dr. Ray", "the other ward")
    release(ledger, make_content(B, "Bob"))
    assert ledger.accounts().keys() == {A, B}


def test_a_step_that_outlives_its_content_is_charged_to_everybody_who_was_in_it(
    ledger: Ledger,
) -> None:
    ledger.follow(make_content(A, "Ada", "Ann"))
    held = ledger.reserve(replace(CHARGE, dataset=A), BUDGET)
    ledger.follow(make_content(A2, "Ada"))  # Ann's record is deleted while the step is computed
    ledger.commit(held)
    ledger.follow(make_content(A3, "Ada"))
    with pytest.raises(UsageError, match="1 of 1 units are in both"):
        ledger.state_disjoint(make_content(B, "Ann"), [A], "Dr. Ray", "the other ward")


def test_what_is_only_about_to_be_charged_opens_no_account_for_others(ledger: Ledger) -> None:
    ledger.follow(make_content(A, "Ada", "Bob"))
    ledger.reserve(replace(CHARGE, dataset=A), BUDGET)
    release(ledger, make_content(A2, "Ada"))
    release(ledger, make_content(A3, "Bob"))
    assert list(ledger.accounts()) == [A2]
    assert ledger.spent(A3, DELTA) == cost(2)


@pytest.mark.parametrize(
    "point", [Fault.LEDGER_BEFORE_BEGIN, Fault.LEDGER_BEFORE_COMMIT, Fault.LEDGER_DURABLE]
)
@pytest.mark.parametrize("step", ["follow", "state", "charge"])
def test_a_site_killed_while_its_records_change_charges_them_all_the_same(
    path: Path, point: Fault, step: str
) -> None:
    """kill -9 between noticing, comparing, stating and charging, and at each point of each."""
    with closing(approve(_open(path))) as ledger:
        release(ledger, make_content(A, "Ada", "Ann"))
        if step == "charge":
            ledger.follow(make_content(A2, "Ann", "Bob"))
    journal = path.with_name("journal")
    journal.write_text(f"{point} 1\n")
    child = os.fork()
    if child == 0:
        os.environ[SWITCH] = str(journal)
        ledger = _open(path)
        if step == "follow":
            ledger.follow(make_content(A2, "Ann", "Bob"))
        elif step == "state":
            ledger.state_disjoint(make_content(B, "Bob"), [A], "Dr. Ray", "the other ward")
        else:
            ledger.charge(replace(CHARGE, dataset=A2, step=8), BUDGET)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with closing(approve(_open(path))) as ledger:
        charges = sum(isinstance(entry.body, Charged) for entry in ledger.entries())
        release(ledger, make_content(A2, "Ann", "Bob"))
        assert ledger.spent(A, DELTA) == ledger.spent(A2, DELTA) == cost(charges + 1)
        stays = ledger.stays(A)
        assert sum(stay.count for stay in stays) == 3
        with pytest.raises(UsageError, match="1 of 1 units are in both"):
            ledger.state_disjoint(make_content(B2, "Bob"), [A], "Dr. Ray", "the other ward")
    assert audited(path).first_broken is None


def test_a_ledger_whose_account_was_opened_without_a_statement_is_broken(path: Path) -> None:
    """As the former program did for every file that had changed."""
    with closing(approve(_open(path))) as ledger:
        for dataset in (A, A2):
            charge = replace(CHARGE, dataset=dataset, step=ledger.head()[0])
            levels = ledger._books.levels(charge, ledger._contents.place(A), BUDGET, 1.8e9)
            with ledger._transaction() as now:
                ledger._append(Charged(charge, dataset, (), levels), now)
    finding = audited(path).first_broken
    assert finding is not None
    assert (finding.entry, "opens an account" in finding.problem) == (3, True)


def test_a_statement_about_what_was_released_before_is_broken(path: Path) -> None:
    with closing(approve(_open(path))) as ledger:
        release(ledger, make_content(A, "Ada"))
        release(ledger, make_content(A2, "Ada"))
        with ledger._transaction() as now:
            ledger._append(Disjoint(A2, (A,), "Dr. Ray", "no matter"), now)
    finding = audited(path).first_broken
    assert finding is not None
    assert finding.entry == 4
