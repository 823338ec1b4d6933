"""One session's state at the server: no threads, no clock, no I/O.

Every message of a site, and every decision of the federation loop, is one method; what the tables in
`states` do not allow is refused. `Aggregator` puts locks and deadlines around it.
"""

from collections.abc import Mapping

from hortus.protocol.descriptor import Descriptor
from hortus.runtime.errors import CohortTooSmall, ProtocolError
from hortus.server.sums.attempt import Attempt
from hortus.server.sums.states import (
    PHASE_TRANSITIONS,
    SITE_TRANSITIONS,
    Phase,
    PhaseEvent,
    SiteEvent,
    SiteState,
)


class SessionMachine:
    """See the module's docstring.

    Args:
        descriptor: The session.
        minimum: Fewest sites in a sum.

    Attributes:
        phase: Where the session is.
        attempt: The open attempt; None if no attempt is open.
    """

    def __init__(self, descriptor: Descriptor, minimum: int) -> None:
        self.phase = Phase.JOINING
        self.attempt: Attempt | None = None
        self._descriptor = descriptor
        self._minimum = minimum
        self._sites = dict.fromkeys(descriptor.cohort, SiteState.INVITED)
        self._departures: dict[str, str] = {}
        self._encapsulated: set[str] = set()

    @property
    def departures(self) -> Mapping[str, str]:
        """Sites that left, each with the reason."""
        return dict(self._departures)

    @property
    def live(self) -> frozenset[str]:
        """Sites that have not left."""
        return frozenset(s for s, state in self._sites.items() if state is not SiteState.LEFT)

    def state(self, site: str) -> SiteState:
        """Returns where a site is."""
        return self._sites[site]

    def in_state(self, state: SiteState) -> frozenset[str]:
        """Returns the sites that are there."""
        return frozenset(s for s, own in self._sites.items() if own is state)

    def take(self, site: str, event: SiteEvent) -> SiteState:
        """Moves a site; returns where it is then.

        Raises:
            ProtocolError: The table has no such transition, or the session is closed.
        """
        state = self._sites[site]
        after = SITE_TRANSITIONS.get((state, event))
        if after is None or self.phase is Phase.CLOSED:
            now = "the session is closed" if self.phase is Phase.CLOSED else f"it is {state.value}"
            raise ProtocolError(f"no {event.value} is expected: {now}", where=site)
        if after is SiteState.LEFT and state is not SiteState.LEFT:
            self._departures.setdefault(site, "was ready again without sending its vector")
        if event is SiteEvent.ENCAPSULATE:
            self._encapsulated.add(site)
        self._sites[site] = after
        return after

    def leave(self, site: str, reason: str) -> None:
        """Takes a site out for good; the first reason counts. After the end nobody leaves."""
        if self.phase is not Phase.CLOSED:
            self._departures.setdefault(site, reason)
            self.take(site, SiteEvent.LEAVE)

    @property
    def is_joined(self) -> bool:
        """Whether the key exchange is over: everybody is ready or has left, or it cannot succeed."""
        waiting = self.live - self.in_state(SiteState.READY)
        return not waiting or (bool(self._departures) and not self._keys_are_complete)

    @property
    def _keys_are_complete(self) -> bool:
        return len(self._encapsulated) == len(self._sites)

    def complete_keys(self) -> None:
        """Ends the key exchange.

        Raises:
            CohortTooSmall: Somebody left before; there are no keys for a smaller cohort.
        """
        if not self._keys_are_complete:
            raise CohortTooSmall(f"no keys for the cohort: {self.describe_departures()}")
        self._move(PhaseEvent.KEYS)

    def go(self, step: int, number: int) -> Attempt:
        """Opens an attempt over all live sites; those that are not ready have left by now.

        Raises:
            CohortTooSmall: Fewer sites than the minimum are left.
        """
        survivors = sorted(self.live)
        if len(survivors) < self._minimum:
            raise CohortTooSmall(
                f"{len(survivors)} of at least {self._minimum} sites are left: "
                + self.describe_departures()
            )
        self._move(PhaseEvent.GO)
        for site in survivors:
            self.take(site, SiteEvent.GO)
        self.attempt = Attempt(
            step, number, survivors, self._descriptor.dimension, self._descriptor.ring_bits
        )
        return self.attempt

    def attempt_for(self, site: str, step: int, number: int) -> Attempt:
        """Returns the open attempt.

        Raises:
            ProtocolError: It is another one, or expects nothing of this site any more.
        """
        attempt = self.attempt
        if attempt is None or (attempt.step, attempt.number) != (step, number):
            raise ProtocolError(f"step {step} attempt {number} is not open", where=site)
        if site not in attempt.sites or self.state(site) is SiteState.LEFT:
            raise ProtocolError("the site has no vector to add to this sum", where=site)
        return attempt

    @property
    def is_settled(self) -> bool:
        """Whether no upload of the open attempt is outstanding."""
        outstanding = self.in_state(SiteState.CALLED) | self.in_state(SiteState.UPLOADING)
        return not outstanding

    def settle(self) -> tuple[Attempt, bool]:
        """Closes the open attempt; returns it, and whether it is complete: else it is thrown away.

        A site whose vector is still outstanding leaves: so each attempt that fails costs at least
        one site, and a step has at most (cohort - minimum + 1) of them.
        """
        attempt = self.attempt
        if attempt is None:
            raise RuntimeError("no attempt is open")
        attempt.close()
        for site in self.in_state(SiteState.CALLED) | self.in_state(SiteState.UPLOADING):
            self.leave(site, f"sent no vector for step {attempt.step} in time")
        self.attempt = None
        complete = attempt.delivered == frozenset(attempt.sites)
        self._move(PhaseEvent.COMPLETE if complete else PhaseEvent.DISCARD)
        return attempt, complete

    def close(self) -> None:
        """Ends the session; an open attempt is thrown away."""
        if self.attempt is not None:
            self.attempt.close()
            self.attempt = None
        self._move(PhaseEvent.CLOSE)

    def describe_departures(self) -> str:
        """Returns who left and why, in one line."""
        return "; ".join(f"{site}: {why}" for site, why in sorted(self._departures.items()))

    def _move(self, event: PhaseEvent) -> None:
        after = PHASE_TRANSITIONS.get((self.phase, event))
        if after is None:
            raise RuntimeError(f"a session that is {self.phase.value} cannot take {event.value}")
        self.phase = after
