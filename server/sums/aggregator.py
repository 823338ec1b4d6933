"""The server's half of the secure sum: one session's meeting point for its cohort.

Sites' calls come on many threads and block until the session moves on; the federation loop drives
it with `exchange_keys`, `sum` and `close`. The server only ever adds masked chunks. `SessionMachine`
says what may happen next; this class waits, with deadlines, and wakes.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hortus.privacy.audit.reconcile import AttemptRecord
from hortus.privacy.secure_sum.key_exchange import (
    check_announcement,
    check_encapsulation,
    hash_of_announcements,
    read_announcement,
    read_encapsulation,
)
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Roster
from hortus.protocol.limits import PROTOCOL_VERSION, check_version, checked
from hortus.protocol.plan import Cohort
from hortus.protocol.vectors import split, vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError, in_one_line
from hortus.server.sums.attempt import Attempt
from hortus.server.sums.machine import SessionMachine
from hortus.server.sums.states import Phase, SiteEvent, SiteState

Message = TypeVar("Message", wire.Announcement, wire.Encapsulations)


@dataclass(frozen=True, slots=True)
class StepSum:
    """The ring sum of one step: `total` is uint32[d], `sites` are those whose vectors are in it."""

    total: NDArray[np.uint32]
    sites: tuple[str, ...]
    attempts: int


class Aggregator:
    """One session; see the module's docstring.

    Args:
        descriptor: The session.
        rules: Minimum cohort and deadlines.
        roster: Keys of the sites. Nobody else relies on what the server makes of them: it looks for
            whom to leave out when keys are such that the others would refuse them.
    """

    def __init__(self, descriptor: Descriptor, rules: Cohort, roster: Roster) -> None:
        self.roster = roster
        self.descriptor = descriptor
        self.rules = rules
        self._changed = threading.Condition()
        self._machine = SessionMachine(descriptor, rules.minimum)
        self._announcements: dict[str, wire.Announcement] = {}
        self._encapsulations: dict[str, wire.Encapsulations] = {}
        self._ready_calls: Counter[str] = Counter()
        self._go = wire.Go()
        self._adapter: NDArray[np.float32] | None = None
        self._adapter_digest = ""
        self._closed = ""

    @property
    def departures(self) -> Mapping[str, str]:
        """Sites that left the session, each with the reason."""
        with self._changed:
            return self._machine.departures

    # What sites call. `site` is the name that the transport has authenticated.

    def check_member(self, site: str) -> None:
        """Raises ProtocolError unless the site is in the session's cohort."""
        if site not in self.descriptor.cohort:
            raise ProtocolError("no such session for this site", where=site)

    def announce(self, site: str, request: wire.Announcement) -> wire.Announcements:
        """Takes a site's ephemeral keys; returns the cohort's, sorted by site."""
        self._admit(site, request.session)
        with self._blaming(site):
            check_version(checked(request).protocol)
            own = read_announcement(request)
            if own.site != site:
                raise ProtocolError("the message is from another site", where=site)
            check_announcement(own, self.roster, self.descriptor.digest())
        self._gather(self._announcements, site, SiteEvent.ANNOUNCE, request)
        return wire.Announcements(protocol=PROTOCOL_VERSION, announcements=self._announced())

    def encapsulate(self, site: str, request: wire.Encapsulations) -> wire.Encapsulations:
        """Takes a site's ciphertexts for the others; returns theirs for it, sorted by sender."""
        self._admit(site, request.session)
        with self._blaming(site):
            self._check_encapsulations(site, checked(request))
        self._gather(self._encapsulations, site, SiteEvent.ENCAPSULATE, request)
        sent = (self._encapsulations[name].encapsulations for name in self.descriptor.cohort)
        own = [one for encapsulations in sent for one in encapsulations if one.receiver == site]
        return wire.Encapsulations(session=request.session, encapsulations=own)

    def ready(self, site: str, request: wire.ReadyRequest) -> wire.Turn:
        """Notes that a site is ready, or why it leaves; returns what it does next.

        Raises:
            ProtocolError: No Ready is due, or a newer call of the same site took this one's place.
        """
        with self._changed:
            self._admit(site, checked(request).session)
            if request.refusal:
                self._leave(site, in_one_line(request.refusal))
            if self._is_over_for(site) or self._take(site, SiteEvent.READY) is SiteState.LEFT:
                return self._finished(site)
            self._ready_calls[site] += 1
            call = self._ready_calls[site]
            self._changed.wait_for(
                lambda: (
                    self._machine.state(site) is not SiteState.READY
                    or self._ready_calls[site] != call
                    or self._is_over_for(site)
                )
            )
            if self._ready_calls[site] != call:
                raise ProtocolError("a newer call of this site has replaced this one", where=site)
            if self._is_over_for(site):
                return self._finished(site)
            return wire.Turn(go=self._go)

    def adapter(self, site: str, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """Streams the adapter that the current step starts from, from the chunk asked for on."""
        with self._changed:
            self._admit(site, checked(request).session)
            if self._adapter is None or request.digest != self._adapter_digest:
                raise ProtocolError("the requested adapter is not the current one", where=site)
            adapter = self._adapter
        return split(adapter, request.first_sequence)

    def upload(self, site: str, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """Adds a site's masked vector to the open attempt, chunk by chunk.

        Raises:
            ProtocolError: It is late, a second one, or damaged; no chunk is added from then on.
        """
        header = checked(next(parts, wire.UploadPart()).header)
        with self._changed:
            attempt = self._open_attempt(site, header)
            self._take(site, SiteEvent.UPLOAD)
            stream, due = attempt.open_stream(site)
        if header.first_sequence != due:
            raise ProtocolError(
                f"the upload starts with chunk {header.first_sequence}, but chunk {due} is expected",
                where=site,
            )
        is_whole = False
        for part in parts:
            is_whole = attempt.add(site, stream, part.chunk)
            if is_whole:
                self._take(site, SiteEvent.LAST_CHUNK)
        if not is_whole:
            raise ProtocolError("the upload ended before its last chunk", where=site)
        return wire.Receipt()

    def progress(self, site: str, header: wire.UploadHeader) -> wire.UploadProgress:
        """Says which chunk of a broken upload is due; its old connection adds nothing any more."""
        with self._changed:
            attempt = self._open_attempt(site, checked(header))
            _, due = attempt.open_stream(site)
        return wire.UploadProgress(next_sequence=due)

    # What the federation loop calls.

    def exchange_keys(self) -> None:
        """Waits until the whole cohort holds its pairwise keys.

        Raises:
            CohortTooSmall: Somebody did not come in time; `departures` says who.
        """
        machine = self._machine
        with self._changed:
            self._changed.wait_for(lambda: machine.is_joined, timeout=self.rules.join_deadline)
            if not machine.is_joined:
                for site in machine.live - machine.in_state(SiteState.READY):
                    self._leave(site, "did not join in time")
            machine.complete_keys()

    def sum(
        self,
        step: int,
        adapter: NDArray[np.float32],
        note: Callable[[AttemptRecord], None] = lambda _: None,
    ) -> StepSum:
        """Makes one secure sum, re-formed over the survivors when a site drops out.

        Args:
            step: Number of the step in this session, from 0.
            adapter: float32[d], what the sites start from.
            note: Records each attempt, before any site hears of it and again when it is settled.

        Raises:
            CohortTooSmall: Fewer sites than the minimum are left.
        """
        with self._changed:
            self._adapter, self._adapter_digest = adapter, vector_digest(adapter)
        session = self.descriptor.session

        def begun(attempt: Attempt) -> None:
            note(AttemptRecord(session, step, attempt.number, attempt.sites, (), complete=False))

        for number in itertools.count():
            attempt, complete = self._try(step, number, begun)
            heard = tuple(sorted(attempt.heard))
            note(AttemptRecord(session, step, number, attempt.sites, heard, complete))
            if complete:
                return StepSum(attempt.total(), attempt.sites, number + 1)
        raise AssertionError  # never reached: too few sites end it first

    def close(self, reason: str) -> None:
        """Ends the session: every site that waits, or comes later, is told why."""
        with self._changed:
            self._closed = self._closed or reason
            self._machine.close()
            self._changed.notify_all()

    def drop(self, site: str, reason: str) -> None:
        """Takes a site out whose connection has failed."""
        with self._changed:
            self._leave(site, reason)

    def _try(
        self, step: int, number: int, begun: Callable[[Attempt], None]
    ) -> tuple[Attempt, bool]:
        """Makes one attempt over all sites that are ready in time; returns whether it is complete."""
        machine = self._machine
        with self._changed:
            self._await(lambda: machine.live == machine.in_state(SiteState.READY))
            for site in machine.live - machine.in_state(SiteState.READY):
                self._leave(site, f"was not ready for step {step} in time")
            attempt = machine.go(step, number)
            begun(attempt)
            self._go = wire.Go(
                step=step,
                attempt=number,
                survivors=attempt.sites,
                adapter_digest=self._adapter_digest,
            )
            self._changed.notify_all()
            self._await(lambda: machine.is_settled)
            settled = machine.settle()
            self._changed.notify_all()
            return settled

    # Under the lock.

    def _open_attempt(self, site: str, header: wire.UploadHeader) -> Attempt:
        self._admit(site, header.session)
        return self._machine.attempt_for(site, header.step, header.attempt)

    def _take(self, site: str, event: SiteEvent) -> SiteState:
        with self._changed:
            state = self._machine.take(site, event)
            self._changed.notify_all()
            return state

    def _leave(self, site: str, reason: str) -> None:
        self._machine.leave(site, reason)
        self._changed.notify_all()

    def _is_over_for(self, site: str) -> bool:
        return self._machine.phase is Phase.CLOSED or self._machine.state(site) is SiteState.LEFT

    def _finished(self, site: str) -> wire.Turn:
        reason = self._machine.departures.get(site, self._closed)
        return wire.Turn(finished=wire.Finished(reason=in_one_line(reason)))

    def _admit(self, site: str, session: str) -> None:
        self.check_member(site)
        if session != self.descriptor.session:
            raise ProtocolError("no such session for this site", where=site)

    def _announced(self) -> list[wire.Announcement]:
        return [self._announcements[name] for name in self.descriptor.cohort]

    def _check_encapsulations(self, site: str, request: wire.Encapsulations) -> None:
        if len(self._announcements) < len(self.descriptor.cohort):
            raise ProtocolError("it encapsulates to keys that it cannot have seen", where=site)
        sent = [read_encapsulation(one) for one in request.encapsulations]
        others = [name for name in self.descriptor.cohort if name != site]
        if [one.receiver for one in sent] != others or {one.sender for one in sent} != {site}:
            raise ProtocolError(
                "it did not send one encapsulation of its own to each other site", where=site
            )
        digest = self.descriptor.digest()
        announced = hash_of_announcements(map(read_announcement, self._announced()))
        for one in sent:
            check_encapsulation(one, self.roster, digest, announced)

    @contextmanager
    def _blaming(self, site: str) -> Iterator[None]:
        """Takes a site out that sends keys which the others would refuse: they must not be blamed."""
        try:
            yield
        except ProtocolError as error:
            self.drop(site, in_one_line(f"its keys were refused: {error}"))
            raise

    def _gather(
        self, into: dict[str, Message], site: str, event: SiteEvent, message: Message
    ) -> None:
        with self._changed:
            self._take(site, event)
            into[site] = message
            everybody = len(self.descriptor.cohort)
            self._changed.wait_for(
                lambda: len(into) == everybody or self._machine.phase is Phase.CLOSED
            )
            if len(into) < everybody:
                raise ProtocolError(f"the session was abandoned: {self._closed}")

    def _await(self, condition: Callable[[], bool]) -> None:
        self._changed.wait_for(condition, timeout=self.rules.step_deadline)
