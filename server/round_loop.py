"""The round loop: the same for a deployment and for every engine of the simulator."""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract
from hortus.runtime.errors import CohortTooSmall
from hortus.runtime.faults import Fault, reach
from hortus.server.evaluation import Evaluator
from hortus.server.remedies import charged
from hortus.server.run.attendance import AttendanceBook, Stage
from hortus.server.run.records import Departure, RoundRecord
from hortus.server.run.results import template_path, write_results
from hortus.server.run.store import RunStore
from hortus.server.sums.aggregator import StepSum
from hortus.strategies.loop import steps
from hortus.strategies.server_state import ServerState

logger = logging.getLogger(__name__)


class Session(Protocol):
    """A fixed cohort that takes the steps of some rounds."""

    @property
    def departures(self) -> Mapping[str, str]:
        """Sites that left the session, each with the reason."""
        ...

    def begin(self) -> None:
        """Has the sites join.

        Raises:
            CohortTooSmall: Somebody did not join; `departures` says who.
        """
        ...

    def sum(
        self, step: int, start: NDArray[np.float32], note: Callable[[AttemptRecord], None]
    ) -> StepSum:
        """Has the sites compute, and adds up.

        Args:
            step: Number of the sum in this session, from 0.
            start: float32[words], what the sites start from: see `PrivateStep.start`.
            note: Records each attempt, before any site hears of it and again when it is settled.

        Raises:
            CohortTooSmall: Fewer sites than the minimum are left.
        """
        ...

    def close(self) -> None:
        """Ends the session; from now on nobody leaves it."""
        ...

    def drain(self) -> None:
        """Waits for what the sites still do after the end."""
        ...


class Sites(Protocol):
    """Whoever may take part in a run."""

    def volunteers(
        self, number: int, absent: Mapping[str, str], smallest: PrivateStep
    ) -> tuple[str, ...]:
        """Returns the sorted names of the sites that would take part.

        Args:
            number: The first round of the session to come, from 0.
            absent: Sites that are left out, each with the reason.
            smallest: A step of the smallest cohort.

        Raises:
            CohortTooSmall: They are fewer than the minimum.
        """
        ...

    def session(self, name: str, first: int, cohort: tuple[str, ...], step: PrivateStep) -> Session:
        """Opens a session.

        Args:
            name: A new one, 32 hexadecimal digits.
            first: Its first round, from 0.
            cohort: Sorted names.
            step: A step of this cohort.
        """
        ...


@dataclass(frozen=True, slots=True)
class RoundLoop:
    """The round loop of a run, with everything that it needs.

    Attributes:
        sites: The sites that may take part.
        contract: What they are asked to train.
        store: The run's durable state.
        evaluator: The server's model.
        attendance: Where to note which sites are there and what the server does.
        on_round: Called with each finished round.
    """

    sites: Sites
    contract: Contract
    store: RunStore
    evaluator: Evaluator
    attendance: AttendanceBook
    on_round: Callable[[RoundRecord], None]

    def run(self) -> NDArray[np.float32]:
        """Trains all rounds that are still missing; returns the final adapter, float32[d].

        Raises:
            CohortTooSmall: Too few sites remain; rounds finished so far are kept.
        """
        initial = self.evaluator.initial_adapter
        smallest = PrivateStep.of(self.contract, len(initial), self.contract.cohort.minimum)
        self.evaluator.write_template(template_path(self.store.directory))
        write_results(self.store.directory)  # a crash may have come between a round and this
        trained = self._resumed(initial)
        absent: dict[str, str] = {}
        while (first := self.store.next_round) < self.contract.training.rounds:
            reach(Fault.LOOP_BEFORE_QUERY)
            cohort = self.sites.volunteers(first, absent, smallest)
            reach(Fault.LOOP_AFTER_QUERY)
            departed = self._run_session(first, cohort, trained)
            reach(Fault.LOOP_AFTER_SESSION)
            # A site that spoilt a session before it finished a round is left out of the next one.
            absent = {} if self.store.next_round > first else absent | departed
            trained = self._resumed(initial)
        self.store.note_over()
        return trained.adapter

    def _resumed(self, initial: NDArray[np.float32]) -> ServerState:
        """Returns the state that the last durable sum left."""
        trained = ServerState(self.contract, initial)
        if state := self.store.latest_state():
            trained.restore(state)
        return trained

    def _run_session(
        self, first: int, cohort: tuple[str, ...], trained: ServerState
    ) -> dict[str, str]:
        """Opens a session for all missing rounds; returns the sites that it lost, and why."""
        encoding = PrivateStep.of(self.contract, len(trained.adapter), len(cohort))
        name = secrets.token_hex(16)
        self.store.note_session(name, cohort)
        session = self.sites.session(name, first, cohort, encoding)
        self.attendance.join(cohort, lambda: session.departures)
        number, noted = first, set[str]()
        try:
            session.begin()
            for number in range(first, self.contract.training.rounds):
                self._run_round(number, first, session, encoding, trained)
                self._note_departures(session, number, noted)
        except CohortTooSmall as error:
            logger.warning("the session ended early: %s", error)
        finally:
            session.close()
            self.attendance.leave()
            self._note_departures(session, number, noted)
        session.drain()
        return dict(session.departures)

    def _run_round(
        self, number: int, first: int, session: Session, encoding: PrivateStep, trained: ServerState
    ) -> None:
        sums = self.contract.training.steps_per_round
        sites: tuple[str, ...] = ()
        offset = (number - first) * sums
        missing = range(offset + self.store.next_sum, offset + sums)
        for step in steps(trained, encoding, missing, partial(self._sum, session, first)):
            sites, done = step.sites, step.number - offset + 1
            if done < sums:
                self.store.commit_sums(number, done, trained.state())
        self.attendance.begin(Stage.TESTING)
        before = sum(record.attempts for record in self.store.rounds)
        record = RoundRecord(
            round=number,
            sites=sites,
            attempts=self.store.tried[1] - before,
            sums=sums,
            metrics=self.evaluator.measure(trained.adapter),
            epsilon=self._claimed_epsilon(encoding),
            noise_to_signal=trained.take_energy().noise_to_signal,
        )
        self.store.commit(record, trained.state())
        write_results(self.store.directory)
        self.on_round(record)

    def _sum(
        self, session: Session, first: int, step: int, start: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
        """Lets a session's sites form a sum; see `strategies.loop.AddUp`."""
        rounds, index = divmod(step, self.contract.training.steps_per_round)
        self.attendance.sum(first + rounds + 1, index + 1, self.contract.training.steps_per_round)
        result = session.sum(step, start, self._note_attempt)
        reach(Fault.LOOP_AFTER_SUM)
        return result.total, result.sites

    def _note_departures(self, session: Session, number: int, noted: set[str]) -> None:
        """Notes who has left a session, each once, with the round that it was first missed in."""
        for site, reason in session.departures.items():
            if site not in noted:
                self.store.note_departure(Departure(number, site, reason))
                noted.add(site)

    def _note_attempt(self, record: AttemptRecord) -> None:
        self.store.note_attempt(record)
        if record.attempt:
            self.attendance.again(record.attempt + 1)

    def _claimed_epsilon(self, encoding: PrivateStep) -> float | None:
        """ε of a site that was in every attempt so far; with distributed noise each is charged."""
        if encoding.event is None:
            return None
        steps = charged(self.store, self.contract)
        return epsilon({encoding.event: steps}, self.contract.privacy.delta)
