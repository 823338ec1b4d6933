"""The site agent: the one process that holds a site's data, keys, policy, ledger and model.

It answers two questions of the Flower relay (aggregation.proto, service Agent): would this site
take part in a contract, and: take part in this session. It trusts nothing in either.
"""

import hashlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from hortus.client.consent.approval import admission
from hortus.client.consent.contract import (
    budget_of,
    check_ceiling,
    check_contract,
    check_descriptor,
    check_model,
)
from hortus.client.consent.terms import Account, LiveTerms, noise_of
from hortus.client.consent.unread import check_room
from hortus.client.pace import Clock, Pace, Timetable
from hortus.client.preparation import Preparations, Prepared, Preparing, encoding_key
from hortus.client.session import FAILED, Session
from hortus.client.site.folder import Site
from hortus.client.trainer import Stopwatch, Trainer
from hortus.learning.tasks.classification import Encoded
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.ledger.entries import Added, Approved, Declined
from hortus.privacy.noise.randomness import RandomSource, SessionRandomness, UnsafeSeededRandomness
from hortus.privacy.step import StepEncoding
from hortus.protocol.answer import Answer
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.limits import check_version, checked
from hortus.protocol.plan import Cohort, Contract
from hortus.protocol.transport import AggregationChannel
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import DataError, HortusError, ProtocolError, Refused, in_one_line
from hortus.runtime.surroundings import out_of_memory

logger = logging.getLogger(__name__)
_ANSWER_SECONDS = 5.0  # for a session to end that has no reason to go on
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
        hides: Whether no other party is told why this site fails. Only a simulation does without.
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
        self._hides = hides
        self._workbench = workbench
        self._connect = connect
        self._stopwatch = stopwatch
        self._clock = clock
        self._paces: dict[str, Pace] = {}  # of plans' steps: a new session begins no new grid
        self._answers = Timetable(Pace(_FIRST_ANSWER_SECONDS), clock)
        self._preparations = Preparations(self._prepare, lambda _: site.data_version(), clock)
        # A step may find changed records while they are prepared for a question.
        self._follow_lock, self._encode_lock = threading.Lock(), threading.Lock()
        self._encoded: tuple[Hashable, Encoded] | None = None
        self._ahead = ""  # the plan that was last prepared without having been asked for
        self._keep_lock = threading.Lock()
        self._stopping = threading.Event()
        self._left = threading.Condition()
        self._sessions: dict[Session, Callable[[], None]] = {}

    def stop(self, seconds: float) -> None:
        """Leaves all sessions in an orderly way, and hangs up on those that last longer.

        A session that owes nothing is not waited for: its server may have vanished.

        Args:
            seconds: Time for the step that is under way.
        """
        if self._stopping.is_set():
            return
        deadline = time.monotonic() + seconds
        self._stopping.set()
        with self._left:
            running = dict(self._sessions)
        for session, hang_up in running.items():
            if session.stop() and not self._have_left({session}, _ANSWER_SECONDS):
                hang_up()
        if not self._have_left(running.keys(), deadline - time.monotonic()):
            for hang_up in running.values():
                hang_up()
            self._have_left(running.keys(), _ANSWER_SECONDS)  # they may still write to the ledger
        self._preparations.wait(_ANSWER_SECONDS)

    def _have_left(self, sessions: Set[Session], seconds: float) -> bool:
        """Waits for sessions to end; returns whether they have."""
        with self._left:
            return self._left.wait_for(
                lambda: sessions.isdisjoint(self._sessions), timeout=max(0.0, seconds)
            )

    def look_ahead(self) -> None:
        """Begins to prepare for the plan approved last, before the server asks about it."""
        try:
            said = self._site.ledger.consents().values()
        except HortusError:
            return  # a ledger that cannot be read is told of where it is asked
        approved = [entry.body.plan for entry in said if isinstance(entry.body, Approved)]
        plan = approved[-1] if approved else ""
        with self._left:
            idle = not self._sessions
        contract = self._site.kept_contract(plan) if idle and plan != self._ahead else None
        if contract is None:
            return
        try:
            self._preparations.of(contract)
        except Preparing:
            return  # it has begun, or comes next
        except Exception as error:  # noqa: BLE001 - whatever it is, who asks for the plan is told again
            logger.warning("cannot prepare for %s: %s", contract.name, loggable(error))
        else:
            logger.info("is prepared for %s (%s)", contract.name, plan)
        self._ahead = plan

    def consider(self, request: wire.ConsiderRequest) -> wire.ConsiderReply:
        """Says, at a public time, whether this site would take part, and if not, why."""
        begun = self._answers.now()
        refusal, again = self._decide(request)
        answer = Answer.sign(
            self._site.identity, request.challenge, request.contract, refusal, again
        )
        self._answers.keep(begun, self._stopping)
        return wire.ConsiderReply(
            site=answer.site,
            refusal=answer.refusal,
            again=answer.again,
            signature=answer.signature,
        )

    def _decide(self, request: wire.ConsiderRequest) -> tuple[str, int]:
        """Returns why this site would not take part, and when to ask again if it does not know yet."""
        try:
            check_version(checked(request).protocol)
            self._check_going_on()
            self._check_signed("contract", request.contract, request.signature)
            with self._refusals_noted(request.contract):
                contract, prepared = self._approved(request.contract)
                self._check_budget(contract, prepared)
        except Preparing as error:
            logger.info("%s", error)
            return str(error), error.seconds
        except Exception as error:
            known = self._seen(error)
            if not self._hides and not isinstance(known, Refused | ProtocolError):
                raise known from error  # a plan that cannot work here ends a simulation
            logger.warning("refused to take part: %s", loggable(known))
            return self._public(known), 0
        logger.info("would take part in %s (%s)", contract.name, contract.digest())
        return "", 0

    def take_part(self, request: wire.TakePartRequest) -> wire.TakePartReply:
        """Takes part in a session until it ends; where a server watches, it never raises."""
        try:
            steps, reason = self._take_part(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, no text of it leaves the site
            known = self._seen(error)
            logger.warning("left the session: %s", loggable(known))
            return wire.TakePartReply(reason=self._public(known))
        logger.info("the session is over after %d steps: %s", steps, reason)
        return wire.TakePartReply(steps=steps, reason=reason)

    def _seen(self, error: Exception) -> Exception:
        """Returns an error as a log may have it; raises a defect again in a rehearsal."""
        known = out_of_memory(error) or error
        if not isinstance(known, HortusError) and not self._clock.observed:
            raise known
        return known

    def _public(self, error: BaseException) -> str:
        """What the server may read: a policy's answer, but no word about a failure, which records may cause."""
        if isinstance(error, Refused | Preparing) or not self._hides:
            return in_one_line(str(error) or type(error).__name__)
        return FAILED

    def _take_part(self, request: wire.TakePartRequest) -> tuple[int, str]:
        check_version(checked(request).protocol)
        self._check_going_on()
        self._check_signed("session", request.descriptor, request.signature)
        descriptor = _parse_descriptor(request.descriptor)
        with self._refusals_noted(request.contract, descriptor.run, descriptor.first_round):
            return self._join(*self._approved(request.contract), descriptor)

    def _join(
        self, contract: Contract, prepared: Prepared, descriptor: Descriptor
    ) -> tuple[int, str]:
        site, workbench = self._site, prepared.workbench
        encoding = StepEncoding.of(contract, workbench.space.dimension, len(descriptor.cohort))
        check_descriptor(contract, descriptor, encoding, site.name)
        check_ceiling(site.mandate, contract, encoding)
        noise = self._noise()
        randomness = _randomness(noise, contract, site.name)
        trainer = Trainer(encoding, workbench, prepared.encoded, randomness, self._stopwatch)
        if self._clock.observed:
            trainer.rehearse()  # before anybody counts on this site, and before anything depends on a record
        encode = partial(self._encode, contract, workbench)
        records = (prepared.dataset, prepared.encoded)
        terms = LiveTerms(site, encoding, records, encode, trainer.compute_on, noise)
        with self._keep_lock:
            self._check_room(contract)
            site.keep_contract(contract)
            if (mandate := site.mandate).is_unread(contract):
                site.ledger.admit(admission(contract, mandate.policy.budget.delta))
        with ExitStack() as connection:
            channel = connection.enter_context(self._connect(contract.cohort))
            session = Session(
                identity=site.identity,
                roster=site.roster,
                descriptor=descriptor,
                encoding=encoding,
                trainer=trainer,
                terms=terms,
                ledger=site.ledger,
                channel=channel,
                stopwatch=self._stopwatch,
                timetable=self._steps_of(contract),
                public=self._public,
            )

            def hang_up() -> None:
                session.abandon()
                connection.close()

            with self._counted(session, hang_up):
                logger.info("joins session %s of %s", descriptor.session, contract.name)
                return session.run()

    def _steps_of(self, contract: Contract) -> Timetable:
        """Returns when steps of a plan are sent."""
        first = contract.cohort.pace or _FIRST_STEP_SECONDS
        with self._left:
            pace = self._paces.setdefault(contract.digest(), Pace(first))
        return Timetable(pace, self._clock)

    def _check_going_on(self) -> None:
        if self._stopping.is_set():
            raise Refused("its operator is stopping it")

    @contextmanager
    def _counted(self, session: Session, hang_up: Callable[[], None]) -> Iterator[None]:
        """Lets `stop` reach a session while it runs."""
        with self._left:
            self._check_going_on()
            self._sessions[session] = hang_up
        try:
            yield
        finally:
            with self._left:
                del self._sessions[session]
                self._left.notify_all()

    @contextmanager
    def _refusals_noted(self, contract: bytes, run: str = "", round_: int = 0) -> Iterator[None]:
        """Writes a refusal into the ledger, as the server is told it."""
        try:
            yield
        except Refused as error:
            plan = hashlib.sha256(contract).hexdigest()
            self._site.ledger.decline(Declined(plan, run, round_, "", self._public(error)))
            raise

    def _approved(self, encoded: bytes) -> tuple[Contract, Prepared]:
        """Reads a contract; the policy decides first, since the contract names a folder to read."""
        contract, site = _parse_contract(encoded), self._site
        check_contract(site.mandate, contract)
        self._check_room(contract)
        prepared = self._preparations.of(contract)
        check_model(contract, site.model_digest(contract))
        return contract, prepared

    def _prepare(self, contract: Contract) -> Prepared:
        """Computes all that a plan needs; in the background, where somebody watches."""
        site = self._site
        logger.info("prepares for %s: checks the base model", contract.name)
        check_model(contract, site.model_digest(contract))
        workbench = self._workbench(contract)
        logger.info("prepares for %s: reads and encodes its records", contract.name)
        return Prepared(workbench, *self._encode(contract, workbench))

    def _encode(
        self, contract: Contract, workbench: Workbench, known: tuple[str, Encoded] | None = None
    ) -> tuple[str, Encoded]:
        """Returns the records' fingerprint as they are now, and the records, encoded where they changed.

        A session has its own, `known`: what is prepared for another plan meanwhile does not delay its steps.
        """
        with self._follow_lock:
            dataset = self._site.follow(contract)
        if known is not None and known[0] == dataset.fingerprint:
            return known
        with self._encode_lock:
            key = (dataset.fingerprint, encoding_key(contract))
            if self._encoded is None or self._encoded[0] != key:
                self._encoded = (key, workbench.task.encode(dataset.records))
            return dataset.fingerprint, self._encoded[1]

    def _check_room(self, contract: Contract) -> None:
        """Refuses an unread plan that would be one too many to keep."""
        mandate = self._site.mandate
        if mandate.policy.auto_approve is not None and mandate.is_unread(contract):
            kept = self._site.kept_contracts() - mandate.approved
            check_room(mandate.policy.auto_approve, contract, kept)

    def _check_signed(self, purpose: str, message: bytes, signature: bytes) -> None:
        """Refuses what the pinned server has not signed: others may have reached the SuperLink."""
        self._site.roster.verify_server(purpose, message, signature)

    def _check_budget(self, contract: Contract, prepared: Prepared) -> None:
        """Refuses a plan of which not even one step can be paid, before a session counts on it."""
        dimension = prepared.workbench.space.dimension
        encoding = StepEncoding.of(contract, dimension, contract.cohort.minimum)
        mandate = self._site.mandate
        check_ceiling(mandate, contract, encoding)
        budget = budget_of(mandate, contract)
        account = Account(self._site.ledger, prepared.dataset, budget, self._noise())
        if reason := account.reason_to_refuse(encoding):
            raise Refused(reason, where="policy.yaml: budget")

    def _noise(self) -> Added:
        return noise_of(self._site.policy, observed=self._clock.observed)


def _randomness(noise: Added, contract: Contract, site: str) -> RandomSource:
    if noise is Added.GAUSSIAN:
        return SessionRandomness()
    return UnsafeSeededRandomness(contract.seed, site)


def _parse_contract(encoded: bytes) -> Contract:
    try:
        return Contract.model_validate_json(encoded)
    except ValidationError as error:
        raise Refused(f"the contract is malformed: {error.errors()[0]['msg']}") from error


def _parse_descriptor(encoded: bytes) -> Descriptor:
    try:
        return Descriptor.model_validate_json(encoded)
    except ValidationError as error:
        raise Refused(f"the session descriptor is malformed: {error.errors()[0]['msg']}") from error


def loggable(error: Exception) -> str:
    """Returns what a log may keep of an error: nothing of one that may quote a record."""
    if isinstance(error, DataError):
        return "the records do not fit the plan; `hortus approve SITE_DIR PLAN.yaml` says where"
    if isinstance(error, HortusError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"a defect: {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
