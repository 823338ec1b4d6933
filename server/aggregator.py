"""The server's half of the secure sum: one session's meeting point for its cohort.

Sites' calls come on many threads and block until the session moves on; the federation loop drives
it with `exchange_keys`, `sum` and `close`. The server only ever holds masked vectors and adds them.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hortus.protocol.descriptor import Descriptor
from hortus.protocol.errors import CohortTooSmall, ProtocolError, in_one_line
from hortus.protocol.limits import PROTOCOL_VERSION, check_version, checked
from hortus.protocol.plan import Cohort
from hortus.protocol.vectors import join, split, vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire

Message = TypeVar("Message", wire.Announcement, wire.Encapsulations)


@dataclass(frozen=True, slots=True)
class StepSum:
    """The ring sum of one step: `total` is uint32[d], `sites` are those whose vectors are in it."""

    total: NDArray[np.uint32]
    sites: tuple[str, ...]
    attempts: int


@dataclass(slots=True)
class _Attempt:
    """Uploads of one (step, attempt); nothing is added to it once it is closed."""

    step: int
    number: int
    sites: frozenset[str]
    total: NDArray[np.uint32]
    arrived: set[str] = field(default_factory=set)


class Aggregator:
    """One session; see the module's docstring.

    Args:
        descriptor: The session.
        rules: Minimum cohort and deadlines.
    """

    def __init__(self, descriptor: Descriptor, rules: Cohort) -> None:
        self.descriptor = descriptor
        self.rules = rules
        self._changed = threading.Condition()
        self._live = set(descriptor.cohort)
        self._announcements: dict[str, wire.Announcement] = {}
        self._encapsulations: dict[str, wire.Encapsulations] = {}
        self._waiting: set[str] = set()
        self._turns: dict[str, wire.Turn] = {}
        self._refusals: dict[str, str] = {}
        self._adapter: NDArray[np.float32] | None = None
        self._adapter_digest = ""
        self._attempt: _Attempt | None = None
        self._closed: str | None = None

    @property
    def departures(self) -> Mapping[str, str]:
        """Sites that left the session, each with the reason."""
        return dict(self._refusals)

    # What sites call. `site` is the name that the transport has authenticated.

    def check_member(self, site: str) -> None:
        """Raises ProtocolError unless the site is in the session's cohort."""
        if site not in self.descriptor.cohort:
            raise ProtocolError("no such session for this site", where=site)

    def announce(self, site: str, request: wire.Announcement) -> wire.Announcements:
        """Takes a site's ephemeral keys; returns the cohort's, sorted by site."""
        check_version(checked(request).protocol)
        self._gather(self._announcements, site, request.session, {request.site}, request)
        ordered = [self._announcements[name] for name in self.descriptor.cohort]
        return wire.Announcements(protocol=PROTOCOL_VERSION, announcements=ordered)

    def encapsulate(self, site: str, request: wire.Encapsulations) -> wire.Encapsulations:
        """Takes a site's ciphertexts for the others; returns theirs for it, sorted by sender."""
        claimed = {one.sender for one in checked(request).encapsulations}
        self._gather(self._encapsulations, site, request.session, claimed, request)
        sent = (self._encapsulations[name].encapsulations for name in self.descriptor.cohort)
        own = [one for encapsulations in sent for one in encapsulations if one.receiver == site]
        return wire.Encapsulations(session=request.session, encapsulations=own)

    def ready(self, site: str, request: wire.ReadyRequest) -> wire.Turn:
        """Notes that a site is ready, or why it leaves; returns what it does next."""
        with self._changed:
            self._admit(site, checked(request).session)
            if request.refusal:
                self._leave(site, in_one_line(request.refusal))
            if site not in self._live:
                return _finished(self._refusals.get(site, "not in this session any more"))
            self._waiting.add(site)
            self._changed.notify_all()
            self._changed.wait_for(lambda: site in self._turns or self._closed is not None)
            turn = self._turns.pop(site, None)
            return turn or _finished(self._closed or "")

    def adapter(self, site: str, request: wire.AdapterRequest) -> Iterator[wire.Chunk]:
        """Streams the adapter that the current step starts from."""
        with self._changed:
            self._admit(site, checked(request).session)
            if self._adapter is None or request.digest != self._adapter_digest:
                raise ProtocolError("the adapter asked for is not the current one", where=site)
            adapter = self._adapter
        return split(adapter)

    def upload(self, site: str, parts: Iterator[wire.UploadPart]) -> wire.Receipt:
        """Adds a site's masked vector to the open attempt; a late or second one is refused."""
        header = checked(next(parts, wire.UploadPart()).header)
        with self._changed:
            self._admit(site, header.session)
            attempt = self._open_attempt(site, header)
        chunks = (part.chunk for part in parts)
        vector = join(chunks, np.uint32, self.descriptor.dimension)
        with self._changed:
            if self._open_attempt(site, header) is not attempt:
                raise ProtocolError("the upload came too late and was not added", where=site)
            attempt.total += vector
            attempt.arrived.add(site)
            self._changed.notify_all()
        return wire.Receipt()

    # What the federation loop calls.

    def exchange_keys(self) -> None:
        """Waits until the whole cohort holds its pairwise keys.

        Raises:
            CohortTooSmall: Somebody did not come in time; `departures` says who.
        """
        cohort = set(self.descriptor.cohort)

        def settled() -> bool:
            spoilt = bool(self._refusals) and len(self._encapsulations) < len(cohort)
            return spoilt or self._waiting | set(self._refusals) >= cohort

        with self._changed:
            in_time = self._changed.wait_for(settled, timeout=self.rules.join_deadline)
            for site in set() if in_time else cohort - self._waiting - set(self._refusals):
                self._leave(site, "did not join in time")
            if len(self._encapsulations) < len(cohort):
                raise CohortTooSmall(f"no keys for the cohort: {self._describe_departures()}")

    def sum(self, step: int, adapter: NDArray[np.float32]) -> StepSum:
        """Makes one secure sum, re-formed over the survivors when a site drops out.

        Args:
            step: Number of the step in this session, from 0.
            adapter: float32[d], what the sites start from.

        Raises:
            CohortTooSmall: Fewer sites than the minimum are left.
        """
        with self._changed:
            self._adapter, self._adapter_digest = adapter, vector_digest(adapter)
        attempt = 0
        while True:
            self._await(lambda: self._waiting >= self._live, self.rules.step_deadline)
            current = self._start(step, attempt)
            self._collect(current)
            if current.arrived == current.sites:
                return StepSum(current.total, tuple(sorted(current.sites)), attempt + 1)
            attempt += 1

    def close(self, reason: str) -> None:
        """Ends the session: every site that waits, or comes later, is told why."""
        with self._changed:
            self._closed = self._closed or reason
            self._changed.notify_all()

    def drop(self, site: str, reason: str) -> None:
        """Takes a site out whose connection has failed."""
        with self._changed:
            self._leave(site, reason)

    def _start(self, step: int, number: int) -> _Attempt:
        """Sends Go to all sites that are ready; the others are left behind."""
        with self._changed:
            for site in self._live - self._waiting:
                self._leave(site, f"was not ready for step {step} in time")
            if len(self._live) < self.rules.minimum:
                raise CohortTooSmall(
                    f"{len(self._live)} of at least {self.rules.minimum} sites are left: "
                    + self._describe_departures()
                )
            survivors = sorted(self._live)
            go = wire.Go(
                step=step, attempt=number, survivors=survivors, adapter_digest=self._adapter_digest
            )
            zeros = np.zeros(self.descriptor.dimension, np.uint32)
            self._attempt = _Attempt(step, number, frozenset(survivors), zeros)
            self._turns = {site: wire.Turn(go=go) for site in survivors}
            self._waiting.clear()
            self._changed.notify_all()
            return self._attempt

    def _collect(self, attempt: _Attempt) -> None:
        """Waits for an attempt's uploads and closes it: what comes later is not added."""
        self._await(
            lambda: attempt.arrived | set(self._refusals) >= attempt.sites,
            self.rules.step_deadline,
        )
        with self._changed:
            self._attempt = None
            for site in attempt.sites - attempt.arrived:
                self._leave(site, f"sent no vector for step {attempt.step} in time")

    # Under the lock.

    def _open_attempt(self, site: str, header: wire.UploadHeader) -> _Attempt:
        attempt = self._attempt
        if attempt is None or (attempt.step, attempt.number) != (header.step, header.attempt):
            raise ProtocolError(
                f"step {header.step} attempt {header.attempt} is not open", where=site
            )
        if site not in attempt.sites or site in attempt.arrived:
            raise ProtocolError("the site has no vector to add to this sum", where=site)
        return attempt

    def _leave(self, site: str, reason: str) -> None:
        if self._closed is not None:
            return
        self._refusals.setdefault(site, reason)
        self._live.discard(site)
        self._waiting.discard(site)
        self._turns.pop(site, None)
        self._changed.notify_all()

    def _admit(self, site: str, session: str) -> None:
        self.check_member(site)
        if session != self.descriptor.session:
            raise ProtocolError("no such session for this site", where=site)

    def _gather(
        self, into: dict[str, Message], site: str, session: str, claimed: set[str], message: Message
    ) -> None:
        with self._changed:
            self._admit(site, session)
            if claimed != {site} or site in into:
                raise ProtocolError("the message is another site's, or came twice", where=site)
            into[site] = message
            self._changed.notify_all()
            everybody = len(self.descriptor.cohort)
            self._changed.wait_for(lambda: len(into) == everybody or self._closed is not None)
            if len(into) < everybody:
                raise ProtocolError(f"the session was given up: {self._closed}")

    def _describe_departures(self) -> str:
        return "; ".join(f"{site}: {why}" for site, why in sorted(self._refusals.items()))

    def _await(self, condition: Callable[[], bool], seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(condition, timeout=seconds)


def _finished(reason: str) -> wire.Turn:
    return wire.Turn(finished=wire.Finished(reason=in_one_line(reason)))
