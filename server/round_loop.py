"""The round loop, over any Flower Grid: the deployment's and the simulator's alike.

Flower carries two messages to each site: "would you take part in this contract?" (query) and "take
part in this session" (train). Everything within a session, many steps, goes over the aggregation
service, where the server sees masked vectors only.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.step import PrivateStep
from hortus.protocol.answer import CHALLENGE_BYTES, Answer
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.plan import Contract
from hortus.runtime.canonical import canonical_json
from hortus.runtime.errors import CohortTooSmall, ProtocolError, in_one_line
from hortus.runtime.faults import Fault, reach
from hortus.server.evaluation import Evaluator
from hortus.server.remedies import charged, remedies
from hortus.server.run.attendance import AttendanceBook, Said, Stage
from hortus.server.run.records import Departure, RoundRecord
from hortus.server.run.results import template_path, write_results
from hortus.server.run.store import RunStore
from hortus.server.sums.aggregator import Aggregator
from hortus.server.sums.service import Hub
from hortus.strategies.kinds import strategy_of
from hortus.strategies.loop import steps
from hortus.strategies.server_state import ServerState

_FAREWELL_SECONDS = 30.0
_POLL_SECONDS = 0.05
_ASK_AGAIN_SECONDS = 3.0  # what it takes Flower to start a relay
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Heard:
    """What sites have answered.

    Attributes:
        refusals: Why a site would not take part, by its name.
        willing: The sites that would.
        answered: Nodes that have decided.
        undecided: Seconds after which to ask a node again.
    """

    refusals: dict[str, str]
    willing: set[str] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    undecided: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundLoop:
    """Everything that a run needs.

    Attributes:
        grid: Flower's way to the sites.
        identity: The server's; sites take nothing from another.
        roster: The sites that may take part now; only their own answers count.
        contract: What they are asked to train.
        store: The run's durable state.
        hub: Where sites find the current session.
        evaluator: The server's model.
        attendance: Where it is noted who is there, and what the server does.
        on_round: Told of each finished round.
        site_folder: Where a site's folder is, as its operator's shell takes it.
    """

    grid: Grid
    identity: Identity
    roster: Callable[[], Roster]
    contract: Contract
    store: RunStore
    hub: Hub
    evaluator: Evaluator
    attendance: AttendanceBook
    on_round: Callable[[RoundRecord], None]
    site_folder: Callable[[str], str] = lambda _: "SITE_DIR"

    def run(self) -> NDArray[np.float32]:
        """Trains all rounds that are still missing; returns the final adapter, float32[d].

        Raises:
            CohortTooSmall: Too few sites remain; rounds finished so far are kept.
        """
        initial = self.evaluator.initial_adapter
        self.evaluator.write_template(template_path(self.store.directory))
        write_results(self.store.directory)  # a crash may have come between a round and this
        trained = self._resumed(initial)
        absent: dict[str, str] = {}
        while (first := self.store.next_round) < self.contract.training.rounds:
            reach(Fault.LOOP_BEFORE_QUERY)
            cohort = self._volunteers(first, absent)
            reach(Fault.LOOP_AFTER_QUERY)
            departed = self._run_session(first, cohort, trained)
            reach(Fault.LOOP_AFTER_SESSION)
            # Who spoilt a session that finished no round is left out of the next one.
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
        """Opens a session for all missing rounds; returns whom it lost on the way, and why."""
        encoding = PrivateStep.of(self.contract, len(trained.adapter), len(cohort))
        descriptor = Descriptor(
            run=self.store.run,
            session=secrets.token_hex(16),
            contract=self.contract.digest(),
            cohort=cohort,
            first_round=first,
            dimension=encoding.words,
            ring_bits=self.contract.privacy.ring_bits,
            scale=strategy_of(self.contract).codec(encoding).scale,
        )
        session = Aggregator(descriptor, self.contract.cohort, self.roster())
        self.store.note_session(descriptor.session, cohort)
        self.hub.open(session)
        self.attendance.join(cohort, lambda: session.departures)
        encoded = canonical_json(descriptor.model_dump(mode="json"))
        reach(Fault.LOOP_BEFORE_TRAIN)
        sent = self.grid.push_messages(
            self._messages(
                self.grid.get_node_ids(),
                MessageType.TRAIN,
                "session",
                encoded,
                descriptor=encoded,
            )
        )
        reach(Fault.LOOP_AFTER_TRAIN)
        number, noted = first, set[str]()
        try:
            session.exchange_keys()
            reach(Fault.LOOP_AFTER_KEYS)
            for number in range(first, self.contract.training.rounds):
                self._run_round(number, session, encoding, trained)
                self._note_departures(session, number, noted)
        except CohortTooSmall as error:
            logger.warning("the session ended early: %s", error)
        finally:
            session.close("the session is over")
            self.attendance.leave()
            self._note_departures(session, number, noted)
        self._drain(set(sent))
        return dict(session.departures)

    def _run_round(
        self, number: int, session: Aggregator, encoding: PrivateStep, trained: ServerState
    ) -> None:
        sums = self.contract.training.steps_per_round
        sites: tuple[str, ...] = ()
        offset = (number - session.descriptor.first_round) * sums
        missing = range(offset + self.store.next_sum, offset + sums)
        for step in steps(trained, encoding, missing, partial(self._sum, session)):
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
        self, session: Aggregator, step: int, start: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], tuple[str, ...]]:
        """Has a session's sites add up: see `strategies.loop.AddUp`."""
        rounds, index = divmod(step, self.contract.training.steps_per_round)
        number = session.descriptor.first_round + rounds
        self.attendance.sum(number + 1, index + 1, self.contract.training.steps_per_round)
        result = session.sum(step, start, self._note_attempt)
        reach(Fault.LOOP_AFTER_SUM)
        return result.total, result.sites

    def _note_departures(self, session: Aggregator, number: int, noted: set[str]) -> None:
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

    def _volunteers(self, number: int, absent: Mapping[str, str]) -> tuple[str, ...]:
        """Asks every site; returns the sorted names of those that would take part.

        A site that is restarting, or whose relay is down, gives no valid answer. While too
        few sites would take part without it, it is asked again, until the deadline. A site that has not
        decided is waited for in any case: nobody can join a session later.
        """
        minimum = self.contract.cohort.minimum
        deadline = time.monotonic() + self.contract.cohort.join_deadline
        heard = _Heard(dict(absent))
        self.attendance.ask()
        while True:
            nodes = set(self.grid.get_node_ids())
            heard.undecided = {}
            for node, answer in self._ask(nodes - heard.answered, deadline - time.monotonic()):
                self._hear(number, node, answer, heard, absent)
            silent = nodes - heard.answered - heard.undecided.keys()
            self.attendance.miss(silent)
            pauses = [*heard.undecided.values(), *([_ASK_AGAIN_SECONDS] if silent else [])]
            pause = min(pauses, default=0.0)
            is_late = time.monotonic() > deadline - pause
            if len(heard.willing) >= minimum and (is_late or not heard.undecided):
                return tuple(sorted(heard.willing))
            is_slow = bool(silent or heard.undecided) or len(nodes) < minimum
            if is_late or not is_slow:
                raise self._too_few(number, len(nodes), heard, is_slow=is_slow)
            time.sleep(pause)

    def _hear(
        self, number: int, node: int, answer: Answer, heard: _Heard, absent: Mapping[str, str]
    ) -> None:
        """Notes one valid answer; a site that spoilt the last session is not asked to join this one."""
        site, refusal = answer.site, in_one_line(answer.refusal)
        if answer.again:
            heard.undecided[node] = answer.again
            heard.refusals[site] = refusal
            self.attendance.hear(site, Said.LATER, refusal)
            return
        heard.answered.add(node)
        self.attendance.hear(site, Said.NO if refusal else Said.YES, refusal)
        if refusal:
            heard.refusals[site] = refusal
            self.store.note_departure(Departure(number, site, refusal))
        elif site not in absent:
            heard.refusals.pop(site, None)
            heard.willing.add(site)

    def _too_few(self, number: int, nodes: int, heard: _Heard, *, is_slow: bool) -> CohortTooSmall:
        minimum = self.contract.cohort.minimum
        step = PrivateStep.of(self.contract, len(self.evaluator.initial_adapter), minimum)
        what_to_do = remedies(self.store, step, heard.refusals, self.site_folder, is_slow=is_slow)
        return CohortTooSmall(
            f"{len(heard.willing)} of {nodes} connected sites would take part, the plan needs "
            f"{minimum}. " + self._missing(heard.willing, heard.refusals),
            where=f"round {number + 1}",
            remedy=" ".join(what_to_do),
        )

    def _missing(self, willing: Set[str], refusals: Mapping[str, str]) -> str:
        """Says of each site that would not take part why, or where it is."""
        seen = self.attendance.now.sites
        names = sorted((seen.keys() | refusals.keys()) - willing)
        return " ".join(f"{name}: {refusals.get(name) or seen[name].in_words}." for name in names)

    def _ask(self, nodes: Iterable[int], seconds: float) -> Iterator[tuple[int, Answer]]:
        """Asks nodes whether they would take part; yields the valid answers as they come."""
        challenge, roster = secrets.token_bytes(CHALLENGE_BYTES), self.roster()
        contract = self._encoded_contract()
        messages = self._messages(
            nodes, MessageType.QUERY, "contract", contract, challenge=challenge
        )
        for reply in self._replies(messages, seconds):
            try:
                answer = _read_answer(reply)
                answer.verify(roster, challenge, contract)
            except ProtocolError as error:
                logger.warning("a node's answer does not count: %s", error)
            else:
                yield reply.metadata.src_node_id, answer

    def _replies(self, messages: Iterable[Message], seconds: float) -> Iterator[Message]:
        """Sends messages; yields each reply when it is there."""
        waiting, deadline = set(self.grid.push_messages(messages)), time.monotonic() + seconds
        while waiting:
            for reply in self.grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                yield reply
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_SECONDS if waiting else 0)

    def _encoded_contract(self) -> bytes:
        return canonical_json(self.contract.model_dump(mode="json"))

    def _messages(
        self, nodes: Iterable[int], kind: str, purpose: str, question: bytes, **more: bytes
    ) -> list[Message]:
        """One message for each node: the contract, and what the server signs of it."""
        request: dict[str, bytes | int] = {
            "protocol": PROTOCOL_VERSION,
            "contract": self._encoded_contract(),
            "signature": self.identity.sign(purpose, question),
            **more,
        }
        return [
            Message(RecordDict({"request": ConfigRecord({**request})}), node, kind)
            for node in nodes
        ]

    def _drain(self, sent: set[str]) -> None:
        """Waits for the sites to say that they have left, but not for long."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while sent and time.monotonic() < deadline:
            sent -= {m.metadata.reply_to_message_id for m in self.grid.pull_messages(sent)}
            time.sleep(_POLL_SECONDS if sent else 0)


def _read_answer(reply: Message) -> Answer:
    """Reads what a node says; a node may be anything that holds a SuperNode's key.

    Raises:
        ProtocolError: It is no answer.
    """
    if reply.has_error():
        raise ProtocolError(f"the node failed: {reply.error.reason}")
    answer = reply.content.config_records.get("answer", ConfigRecord())
    site, refusal = answer.get("site"), answer.get("refusal")
    again, signature = answer.get("again"), answer.get("signature")
    if not (isinstance(site, str) and isinstance(refusal, str) and isinstance(signature, bytes)):
        raise ProtocolError("it lacks a site, a refusal or a signature")
    if not isinstance(again, int) or again < 0:
        raise ProtocolError("it does not say whether the site has decided")
    return Answer(site, refusal, again, signature)
