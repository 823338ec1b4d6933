"""The site agent: the one process that holds a site's data, keys, policy, ledger and model.

It answers two questions of the Flower relay (aggregation.proto, service Agent): would this site
take part in a contract, and: take part in this session. It trusts nothing in either.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from hortus.client.consent.admission import Admission, Gate, LiveTerms
from hortus.client.consent.refusals import check_descriptor, read_descriptor
from hortus.client.disclosure import Disclosure, loggable
from hortus.client.pace import Clock, Pace, Timetable
from hortus.client.preparation import Materials, Preparations, Preparing
from hortus.client.running import RunningSessions
from hortus.client.session import Session
from hortus.client.site.folder import Site
from hortus.client.trainer import Stopwatch, Trainer
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.ledger.charges import Added
from hortus.privacy.ledger.decisions import Approved, Declined
from hortus.privacy.noise.randomness import RandomSource, SessionRandomness, UnsafeSeededRandomness
from hortus.protocol.answer import Answer
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.limits import check_version, checked
from hortus.protocol.plan import Cohort, Contract
from hortus.protocol.transport import AggregationChannel
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import HortusError, ProtocolError, Refused

logger = logging.getLogger(__name__)
_ANSWER_SECONDS = 5.0  # for what is being prepared, when the site stops
# Of the first slots: below what most work takes, so that the grid adapts to the work.
_FIRST_STEP_SECONDS = 0.1
_FIRST_ANSWER_SECONDS = 1.0


class SiteAgent:
    """Decides and trains for one site.

    Args:
        site: The opened site folder.
        workbench: Gives the warm model of a contract.
        connect: Dials the aggregation service that site.yaml names, with a plan's deadlines.
        stopwatch: Times phases.
        clock: Says whether, and when, another party sees what this site does.
        hides: Whether other parties learn why this site fails. Only a simulation lets them.
    """

    def __init__(
        self,
        site: Site,
        workbench: Callable[[Contract], Workbench],
        connect: Callable[[Cohort], AbstractContextManager[AggregationChannel]],
        stopwatch: Stopwatch,
        clock: Clock,
        *,
        hides: bool = True,
    ) -> None:
        self._site = site
        self._connect = connect
        self._stopwatch = stopwatch
        self._clock = clock
        self._disclosure = Disclosure(observed=clock.observed, hides=hides)
        self._materials = Materials(site, workbench)
        self._preparations = Preparations(
            self._materials.prepare, lambda _: site.data_version(), clock
        )
        self._gate = Gate(site, self._preparations.of, observed=clock.observed)
        self._running = RunningSessions()
        self._answers = Timetable(Pace(_FIRST_ANSWER_SECONDS), clock)
        self._paces: dict[str, Pace] = {}  # of plans' steps: a new session begins no new grid
        self._ahead = ""  # the plan that was last prepared without having been asked for

    def stop(self, seconds: float) -> None:
        """Leaves all sessions in an orderly way, and hangs up on those that last longer.

        Args:
            seconds: Time for the step that is under way.
        """
        if not self._running.stopping.is_set():
            self._running.stop(seconds)
            self._preparations.wait(_ANSWER_SECONDS)

    def look_ahead(self) -> None:
        """Begins to prepare for the plan approved last, before the server asks about it."""
        try:
            said = self._site.ledger.consents().values()
        except HortusError:
            return  # a ledger that cannot be read is reported to whoever asks
        approved = [entry.body.plan for entry in said if isinstance(entry.body, Approved)]
        plan = approved[-1] if approved else ""
        idle = self._running.none
        contract = self._site.kept_contract(plan) if idle and plan != self._ahead else None
        if contract is None:
            return
        try:
            self._preparations.of(contract)
        except Preparing:
            return  # it has begun, or comes next
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asks for the plan gets it again
            logger.warning("cannot prepare for %s: %s", contract.name, loggable(error))
        else:
            logger.info("is ready for %s (%s)", contract.name, plan)
        self._ahead = plan

    def consider(self, request: wire.ConsiderRequest) -> wire.ConsiderReply:
        """Says, at a public time, whether this site would take part, and if not, why."""
        begun = self._answers.now()
        refusal, again = self._decide(request)
        answer = Answer.sign(
            self._site.identity, request.challenge, request.contract, refusal, again
        )
        self._answers.keep(begun, self._running.stopping)
        return wire.ConsiderReply(
            site=answer.site,
            refusal=answer.refusal,
            again=answer.again,
            signature=answer.signature,
        )

    def _decide(self, request: wire.ConsiderRequest) -> tuple[str, int]:
        """Returns why this site would not take part, and when to ask again if it does not know yet."""
        try:
            self._check_asked(checked(request), "contract", request.contract)
            with self._refusals_noted(request.contract):
                admission = self._gate.admit(request.contract)
                admission.check_payable()
        except Preparing as error:
            logger.info("%s", error)
            return str(error), error.seconds
        except Exception as error:
            known = self._disclosure.seen(error)
            if not self._disclosure.hides and not isinstance(known, Refused | ProtocolError):
                raise known from error  # a plan that cannot work here ends a simulation
            logger.warning("refused to take part: %s", loggable(known))
            return self._disclosure.public(known), 0
        contract = admission.contract
        logger.info("would take part in %s (%s)", contract.name, contract.digest())
        return "", 0

    def take_part(self, request: wire.TakePartRequest) -> wire.TakePartReply:
        """Takes part in a session until it ends; where a server watches, it never raises."""
        try:
            self._check_asked(checked(request), "session", request.descriptor)
            descriptor = read_descriptor(request.descriptor)
            with self._refusals_noted(request.contract, descriptor.run, descriptor.first_round):
                admission = self._gate.admit(request.contract, len(descriptor.cohort))
                check_descriptor(admission.contract, descriptor, admission.step, self._site.name)
                steps, reason = self._join(admission, descriptor)
        except Exception as error:  # noqa: BLE001 - whatever it is, no text of it leaves the site
            known = self._disclosure.seen(error)
            logger.warning("left the session: %s", loggable(known))
            return wire.TakePartReply(reason=self._disclosure.public(known))
        logger.info("the session is over after %d steps: %s", steps, reason)
        return wire.TakePartReply(steps=steps, reason=reason)

    def _join(self, admission: Admission, descriptor: Descriptor) -> tuple[int, str]:
        """Goes through a session; returns the vectors sent, and why it ended."""
        site, contract, bench = self._site, admission.contract, admission.workbench
        randomness = _randomness(admission.noise, contract, site.name)
        trainer = Trainer(
            admission.step, bench, admission.data.records, randomness, self._stopwatch
        )
        if self._clock.observed:
            trainer.rehearse()  # before anybody counts on this site, and before anything depends on a record
        self._gate.keep(admission)
        renew = partial(self._materials.records, contract, bench)
        with ExitStack() as connection:
            session = Session(
                identity=site.identity,
                roster=site.roster,
                descriptor=descriptor,
                encoding=admission.step,
                trainer=trainer,
                terms=LiveTerms(admission, renew, trainer.compute_on),
                ledger=site.ledger,
                channel=connection.enter_context(self._connect(contract.cohort)),
                stopwatch=self._stopwatch,
                timetable=self._steps_of(contract),
                public=self._disclosure.public,
            )

            def hang_up() -> None:
                session.abandon()
                connection.close()

            with self._running.counted(session, hang_up):
                logger.info("joins session %s of %s", descriptor.session, contract.name)
                return session.run()

    def _steps_of(self, contract: Contract) -> Timetable:
        """Returns when steps of a plan are sent."""
        first = contract.cohort.pace or _FIRST_STEP_SECONDS
        return Timetable(self._paces.setdefault(contract.digest(), Pace(first)), self._clock)

    def _check_asked(
        self, request: wire.ConsiderRequest | wire.TakePartRequest, purpose: str, message: bytes
    ) -> None:
        """Refuses what the pinned server has not signed: others may have reached the SuperLink."""
        check_version(request.protocol)
        self._running.check_going_on()
        self._site.roster.verify_server(purpose, message, request.signature)

    @contextmanager
    def _refusals_noted(self, contract: bytes, run: str = "", round_: int = 0) -> Iterator[None]:
        """Writes a refusal into the ledger, as it is sent to the server."""
        try:
            yield
        except Refused as error:
            plan, told = hashlib.sha256(contract).hexdigest(), self._disclosure.public(error)
            self._site.ledger.decline(Declined(plan, run, round_, "", told))
            raise


def _randomness(noise: Added, contract: Contract, site: str) -> RandomSource:
    if noise is Added.GAUSSIAN:
        return SessionRandomness()
    return UnsafeSeededRandomness(contract.seed, site)
