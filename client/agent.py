"""The site agent: the one process that holds a site's data, keys, policy, ledger and model.

It answers two questions of the Flower relay (aggregation.proto, service Agent): would this site
take part in a contract, and: take part in this session. It trusts nothing in either.
"""

import hashlib
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from pydantic import ValidationError

from hortus.client.consent import (
    budget_of,
    check_ceiling,
    check_contract,
    check_descriptor,
    check_model,
)
from hortus.client.pace import Clock, Pace, Timetable
from hortus.client.session import FAILED, Account, Session
from hortus.client.site import Site
from hortus.client.trainer import Stopwatch, Trainer
from hortus.client.unread import check_room, is_unread
from hortus.client.workbench import Workbench
from hortus.learning.tasks import Encoded
from hortus.privacy.encoding import StepEncoding
from hortus.privacy.entries import Declined
from hortus.privacy.randomness import RandomSource, SystemRandomness, UnsafeSeededRandomness
from hortus.protocol.answer import Answer
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.errors import DataError, HortusError, Refused, in_one_line
from hortus.protocol.limits import check_version, checked
from hortus.protocol.plan import Cohort, Contract
from hortus.protocol.transport import AggregationChannel
from hortus.protocol.wire import aggregation_pb2 as wire

logger = logging.getLogger(__name__)
_ANSWER_SECONDS = 5.0  # for a session to end that has no reason to go on
# Of the first slots: below what most work takes, so that the grid adapts to the work.
_FIRST_STEP_SECONDS = 0.1


class SiteAgent:
    """Decides and trains for one site.

    Args:
        site: The opened site folder.
        workbench: Gives the warm model of a contract.
        connect: Dials the aggregation service that site.yaml names, with a plan's deadlines.
        stopwatch: Times phases.
        clock: Says whether, and when, another party sees what this site does.
    """

    def __init__(
        self,
        site: Site,
        workbench: Callable[[Contract], Workbench],
        connect: Callable[[Cohort], AbstractContextManager[AggregationChannel]],
        stopwatch: Stopwatch,
        clock: Clock,
    ) -> None:
        self._site = site
        self._workbench = workbench
        self._connect = connect
        self._stopwatch = stopwatch
        self._clock = clock
        self._paces: dict[str, Pace] = {}  # of plans' steps: a new session begins no new grid
        # The server may ask about two plans at once.
        self._encode_lock = threading.Lock()
        self._encoded: tuple[str, Encoded] | None = None
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

    def _have_left(self, sessions: Set[Session], seconds: float) -> bool:
        """Waits for sessions to end; returns whether they have."""
        with self._left:
            return self._left.wait_for(
                lambda: sessions.isdisjoint(self._sessions), timeout=max(0.0, seconds)
            )

    def consider(self, request: wire.ConsiderRequest) -> wire.ConsiderReply:
        """Says whether this site would take part, and if not, why."""
        try:
            check_version(checked(request).protocol)
            self._check_going_on()
            self._check_signed("contract", request.contract, request.signature)
            with self._refusals_noted(request.contract):
                contract = self._approved(request.contract)
                self._check_budget(contract)
            self._encode(contract)
        except Exception as error:  # noqa: BLE001 - a defect is told of like any other failure
            logger.warning("refused to take part: %s", loggable(error))
            return self._answer(request, _public(error))
        logger.info("would take part in %s (%s)", contract.name, contract.digest())
        return self._answer(request, "")

    def _answer(self, request: wire.ConsiderRequest, refusal: str) -> wire.ConsiderReply:
        answer = Answer.sign(self._site.identity, request.challenge, request.contract, refusal)
        return wire.ConsiderReply(
            site=answer.site, refusal=answer.refusal, signature=answer.signature
        )

    def take_part(self, request: wire.TakePartRequest) -> wire.TakePartReply:
        """Takes part in a session until it ends; never raises, whatever ends it."""
        try:
            steps, reason = self._take_part(request)
        except Exception as error:  # noqa: BLE001 - a defect is told of like any other failure
            logger.warning("left the session: %s", loggable(error))
            return wire.TakePartReply(reason=_public(error))
        logger.info("the session is over after %d steps: %s", steps, reason)
        return wire.TakePartReply(steps=steps, reason=reason)

    def _take_part(self, request: wire.TakePartRequest) -> tuple[int, str]:
        check_version(checked(request).protocol)
        self._check_going_on()
        self._check_signed("session", request.descriptor, request.signature)
        descriptor = _parse_descriptor(request.descriptor)
        with self._refusals_noted(request.contract, descriptor.run, descriptor.first_round):
            return self._join(self._approved(request.contract), descriptor)

    def _join(self, contract: Contract, descriptor: Descriptor) -> tuple[int, str]:
        site = self._site
        workbench = self._workbench(contract)
        encoding = StepEncoding.of(contract, workbench.space.dimension, len(descriptor.cohort))
        check_descriptor(contract, descriptor, encoding, site.name)
        check_ceiling(site.policy, contract, encoding)
        randomness = self._randomness(contract)
        trainer = Trainer(encoding, workbench, self._encode(contract), randomness, self._stopwatch)
        with self._keep_lock:
            self._check_room(contract)
            site.keep_contract(contract)
        with ExitStack() as connection:
            channel = connection.enter_context(self._connect(contract.cohort))
            session = Session(
                identity=site.identity,
                roster=site.roster,
                descriptor=descriptor,
                encoding=encoding,
                trainer=trainer,
                account=self._account(contract),
                channel=channel,
                stopwatch=self._stopwatch,
                timetable=self._steps_of(contract),
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
            self._site.ledger.decline(Declined(plan, run, round_, "", _public(error)))
            raise

    def _approved(self, encoded: bytes) -> Contract:
        """Reads a contract; the policy decides first, since the contract names a folder to read."""
        contract, site = _parse_contract(encoded), self._site
        check_contract(site.policy, contract, names_model=site.config.model is not None)
        self._check_room(contract)
        check_model(contract, site.model_digest(contract))
        return contract

    def _check_room(self, contract: Contract) -> None:
        """Refuses an unread plan that would be one too many to keep."""
        policy = self._site.policy
        if policy.auto_approve is not None and is_unread(policy, contract):
            kept = self._site.kept_contracts() - set(policy.approved_plans)
            check_room(policy.auto_approve, contract, kept)

    def _check_signed(self, purpose: str, message: bytes, signature: bytes) -> None:
        """Refuses what the pinned server has not signed: others may have reached the SuperLink."""
        self._site.roster.verify_server(purpose, message, signature)

    def _account(self, contract: Contract) -> Account:
        site = self._site
        budget = budget_of(site.policy, contract)
        return Account(site.ledger, site.fingerprint(site.records(contract)), budget)

    def _check_budget(self, contract: Contract) -> None:
        """Refuses a plan of which not even one step can be paid, before a session counts on it."""
        workbench = self._workbench(contract)
        encoding = StepEncoding.of(contract, workbench.space.dimension, contract.cohort.minimum)
        check_ceiling(self._site.policy, contract, encoding)
        if reason := self._account(contract).reason_to_refuse(encoding):
            raise Refused(reason, where="policy.yaml: budget")

    def _encode(self, contract: Contract) -> Encoded:
        """Prepares the records once for a contract, before others wait for this site to join."""
        with self._encode_lock:
            if self._encoded is None or self._encoded[0] != contract.digest():
                task, records = self._workbench(contract).task, self._site.records(contract)
                self._encoded = (contract.digest(), task.encode(records))
            return self._encoded[1]

    def _randomness(self, contract: Contract) -> RandomSource:
        if self._site.policy.unsafe_seeded_noise:
            return UnsafeSeededRandomness(contract.seed, self._site.name)
        return SystemRandomness()


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


def _public(error: Exception) -> str:
    """What the server may read: a policy's answer, but no word about a failure, which records may cause."""
    return in_one_line(str(error)) if isinstance(error, Refused) else FAILED


def loggable(error: Exception) -> str:
    """Returns what a log may keep of an error: nothing of one that may quote a record."""
    if isinstance(error, DataError):
        return "the records do not fit the plan; `hortus approve SITE_DIR PLAN.yaml` says where"
    if isinstance(error, HortusError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"a defect: {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
