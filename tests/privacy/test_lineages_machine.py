"""Whatever happens to a site's file, nobody in it spends more than the policy allows.

Files are edited, put back and exchanged, agents start again and die at every point of a transaction, steps
outlive their records, operators state what is so and what is not. The truth is counted apart, person by
person, from who was in the file of each release.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.charges import approve, make_charge, make_content
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import read_evidence
from hortus.privacy.ledger import journal
from hortus.privacy.ledger.charges import Charged
from hortus.privacy.ledger.exposure import exposures
from hortus.privacy.ledger.holds import Reservation
from hortus.privacy.ledger.marks import Content
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget
from hortus.runtime.errors import Refused, UsageError
from hortus.runtime.faults import Fault
from hortus.runtime.names import SERVER

SITE = Identity.generate("ash")
ROSTER = Roster({"ash": SITE.public_key_bytes}, Identity.generate(SERVER).public_key_bytes)
DELTA, MOST = 1e-5, 3
COSTS = [0.0] + [epsilon({GaussianEvent(1.0, 4.0): n}, DELTA) for n in range(1, 60)]
BUDGET = Budget(epsilon=COSTS[MOST], delta=DELTA)
CONTENTS = st.sets(st.sampled_from("ABCDE"), min_size=1, max_size=4).map(frozenset)
POINTS = (Fault.LEDGER_BEFORE_BEGIN, Fault.LEDGER_BEFORE_COMMIT, Fault.LEDGER_DURABLE)


class Killed(BaseException):
    """What a process would not live to see."""


def name_of(people: frozenset[str]) -> str:
    """The fingerprint of a file."""
    return hashlib.sha256("".join(sorted(people)).encode()).hexdigest()


def content_of(people: frozenset[str]) -> Content:
    """A file in which each of these people has one row."""
    return make_content(name_of(people), *people)


class SiteOverTime(RuleBasedStateMachine):
    """One site's ledger, and who was in its file at each release."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.people: dict[str, frozenset[str]] = {}
        self.held: list[Reservation] = []
        self.steps = 0
        self.ledger = self._open()

    def _open(self) -> Ledger:
        return approve(Ledger.open(self.path, SITE, lambda: 1.8e9))

    def _content(self, people: frozenset[str]) -> Content:
        self.people[name_of(people)] = people
        return content_of(people)

    def _charge(self, people: frozenset[str]) -> object:
        self.steps += 1
        return replace(make_charge(), dataset=name_of(people), step=self.steps)

    @rule(people=CONTENTS)
    def release(self, people: frozenset[str]) -> None:
        self.ledger.follow(self._content(people))
        with suppress(Refused):
            self.ledger.charge(self._charge(people), BUDGET)  # type: ignore[arg-type]

    @rule(people=CONTENTS)
    def look(self, people: frozenset[str]) -> None:
        self.ledger.follow(self._content(people))

    @rule(people=CONTENTS)
    def release_without_looking(self, people: frozenset[str]) -> None:
        self._content(people)
        with suppress(Refused):
            self.ledger.charge(self._charge(people), BUDGET)  # type: ignore[arg-type]

    @precondition(lambda self: len(self.held) < 2)
    @rule(people=CONTENTS)
    def begin(self, people: frozenset[str]) -> None:
        self.ledger.follow(self._content(people))
        with suppress(Refused):
            self.held.append(self.ledger.reserve(self._charge(people), BUDGET))  # type: ignore[arg-type]

    @precondition(lambda self: self.held)
    @rule(pays=st.booleans())
    def end(self, pays: bool) -> None:
        held = self.held.pop(0)
        if not pays:
            self.ledger.cancel(held)
            return
        with suppress(Refused):
            self.ledger.commit(held)

    @rule(people=CONTENTS)
    def state(self, people: frozenset[str]) -> None:
        accounts = list(self.ledger.accounts())
        if accounts:
            with suppress(UsageError):
                self.ledger.state_disjoint(self._content(people), accounts, "Ray", "he says so")

    @rule()
    def start_again(self) -> None:
        self.ledger.close()
        self.ledger = self._open()

    @rule(people=CONTENTS, point=st.sampled_from(POINTS), what=st.sampled_from(["look", "release"]))
    def die(self, people: frozenset[str], point: Fault, what: str) -> None:
        def reach(fault: Fault) -> None:
            if fault is point:
                raise Killed

        do: Callable[[frozenset[str]], None] = getattr(self, what)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(journal, "reach", reach)
            with suppress(Killed):
                do(people)
        self.start_again()

    def _truth(self) -> Counter[str]:
        """How often each person's data was released from: from the entries, and from the files."""
        bodies = [entry.body for entry in self.ledger.entries()]
        return Counter(
            person
            for body in bodies
            if isinstance(body, Charged)
            for person in self.people[body.charge.dataset]
        )

    @invariant()
    def nobody_has_spent_more_than_the_policy_allows(self) -> None:
        truth = self._truth()
        assert max(truth.values(), default=0) <= MOST
        for dataset, people in self.people.items():
            spent = self.ledger.spent(dataset, DELTA)
            if dataset in self.ledger.contents():
                assert spent >= COSTS[max(truth[person] for person in people)]

    def teardown(self) -> None:
        try:
            evidence = read_evidence("ash", self.path, ROSTER, {})
            assert audit(evidence, ROSTER).first_broken is None
            self._check_exposures()
        finally:
            self.ledger.close()
            self.folder.cleanup()

    def _check_exposures(self) -> None:
        """What is said of units is never less than what they have spent."""
        contents = self.ledger.contents()
        charged = [
            (e.seq, e.body.charge) for e in self.ledger.entries() if isinstance(e.body, Charged)
        ]
        if any(not self.ledger.stays(account) for account in contents.values()):
            return  # nothing is said of units that were never looked at
        told: list[float] = []
        for account in set(contents.values()):
            own = [(seq, charge) for seq, charge in charged if contents[charge.dataset] == account]
            for one in exposures(self.ledger.stays(account), own, DELTA):
                told += [one.epsilon] * one.units
        seen = {p for dataset in contents if self._was_seen(dataset) for p in self.people[dataset]}
        truth = Counter(
            person
            for _, charge in charged
            if self._was_seen(charge.dataset)
            for person in self.people[charge.dataset]
        )
        true = sorted((COSTS[truth[person]] for person in seen), reverse=True)
        assert len(told) >= len(true)
        assert all(a >= b - 1e-9 for a, b in zip(sorted(told, reverse=True), true, strict=False))

    def _was_seen(self, dataset: str) -> bool:
        key = content_of(self.people[dataset]).key
        return not self.ledger._marks.unseen([dataset], key)


TestSiteOverTime = SiteOverTime.TestCase
TestSiteOverTime.settings = settings(
    max_examples=12,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
