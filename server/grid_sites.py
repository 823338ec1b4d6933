"""A deployment's sites: Flower carries the questions, the aggregation service the sessions.

Flower carries two messages to each site: "would you take part in this contract?" (query) and "take
part in this session" (train). Everything within a session, many steps, goes over the aggregation
service, where the server sees masked vectors only.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

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
from hortus.server.remedies import remedies
from hortus.server.run.attendance import AttendanceBook, Said
from hortus.server.run.records import Departure
from hortus.server.run.store import RunStore
from hortus.server.sums.aggregator import Aggregator, StepSum
from hortus.server.sums.service import Hub
from hortus.strategies.kinds import strategy_of

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
class GridSites:
    """The sites that a Flower Grid reaches; see `round_loop.Sites`.

    Attributes:
        grid: Flower's way to the sites.
        identity: The server's; sites take nothing from another.
        roster: The sites that may take part now; only their own answers count.
        contract: What they are asked to train.
        store: The run's durable state.
        hub: Where sites find the current session.
        attendance: Where to note which sites are there and what the server does.
        site_folder: Where a site's folder is, as its operator's shell takes it.
    """

    grid: Grid
    identity: Identity
    roster: Callable[[], Roster]
    contract: Contract
    store: RunStore
    hub: Hub
    attendance: AttendanceBook
    site_folder: Callable[[str], str] = lambda _: "SITE_DIR"

    def volunteers(
        self, number: int, absent: Mapping[str, str], smallest: PrivateStep
    ) -> tuple[str, ...]:
        """Asks every site; returns those that would take part: see `round_loop.Sites`.

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
                raise self._too_few(number, len(nodes), heard, smallest, is_slow=is_slow)
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

    def _too_few(
        self, number: int, nodes: int, heard: _Heard, smallest: PrivateStep, *, is_slow: bool
    ) -> CohortTooSmall:
        minimum = self.contract.cohort.minimum
        what_to_do = remedies(
            self.store, smallest, heard.refusals, self.site_folder, is_slow=is_slow
        )
        return CohortTooSmall(
            f"{len(heard.willing)} of {nodes} connected sites would take part, but the plan needs "
            f"{minimum}. " + self._missing(heard.willing, heard.refusals),
            where=f"round {number + 1}",
            remedy=" ".join(what_to_do),
        )

    def session(
        self, name: str, first: int, cohort: tuple[str, ...], step: PrivateStep
    ) -> "GridSession":
        """Opens a session, which sites do not hear of before it begins: see `round_loop.Sites`."""
        descriptor = Descriptor(
            run=self.store.run,
            session=name,
            contract=self.contract.digest(),
            cohort=cohort,
            first_round=first,
            dimension=step.words,
            ring_bits=self.contract.privacy.ring_bits,
            scale=strategy_of(self.contract).codec(step).scale,
        )
        aggregator = Aggregator(descriptor, self.contract.cohort, self.roster())
        self.hub.open(aggregator)
        encoded = canonical_json(descriptor.model_dump(mode="json"))
        nodes = self.grid.get_node_ids()
        messages = self._messages(nodes, MessageType.TRAIN, "session", encoded, descriptor=encoded)
        return GridSession(self.grid, aggregator, messages)

    def _missing(self, willing: Set[str], refusals: Mapping[str, str]) -> str:
        """Says why each absent site would not take part, or where it is."""
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


class GridSession:
    """A session of a deployment; see `round_loop.Session`.

    Args:
        grid: Flower's way to the sites.
        aggregator: The server's half of the secure sum.
        messages: What asks the sites to take part.
    """

    def __init__(self, grid: Grid, aggregator: Aggregator, messages: list[Message]) -> None:
        self._grid = grid
        self._aggregator = aggregator
        self._messages = messages
        self._sent: set[str] = set()

    @property
    def departures(self) -> Mapping[str, str]:
        """See `round_loop.Session`."""
        return self._aggregator.departures

    def begin(self) -> None:
        """Asks the sites to take part, and waits until they hold their pairwise keys."""
        reach(Fault.LOOP_BEFORE_TRAIN)
        self._sent = set(self._grid.push_messages(self._messages))
        reach(Fault.LOOP_AFTER_TRAIN)
        self._aggregator.exchange_keys()
        reach(Fault.LOOP_AFTER_KEYS)

    def sum(
        self, step: int, start: NDArray[np.float32], note: Callable[[AttemptRecord], None]
    ) -> StepSum:
        """See `round_loop.Session`."""
        return self._aggregator.sum(step, start, note)

    def close(self) -> None:
        """Ends the session: every site learns it when it asks for the next step."""
        self._aggregator.close("the session is over")

    def drain(self) -> None:
        """Waits briefly for the sites to say that they have left."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self._sent and time.monotonic() < deadline:
            left = self._grid.pull_messages(self._sent)
            self._sent -= {message.metadata.reply_to_message_id for message in left}
            time.sleep(_POLL_SECONDS if self._sent else 0)


def _read_answer(reply: Message) -> Answer:
    """Reads what a node says; a node may be anything that holds a SuperNode's key.

    Raises:
        ProtocolError: It is not an answer.
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
