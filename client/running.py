"""The sessions that a site is in, which its operator may stop."""

import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

from hortus.client.session import Session
from hortus.runtime.errors import Refused

_ANSWER_SECONDS = 5.0  # for a session to end that has no reason to continue


class RunningSessions:
    """Counts sessions in and out, and ends them in an orderly way.

    Attributes:
        stopping: Set when the site is to stop.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._left = threading.Condition()
        self._sessions: dict[Session, Callable[[], None]] = {}

    @property
    def none(self) -> bool:
        """Whether the site is in no session."""
        with self._left:
            return not self._sessions

    def check_going_on(self) -> None:
        """Refuses where the site is being stopped."""
        if self.stopping.is_set():
            raise Refused("its operator is stopping it")

    @contextmanager
    def counted(self, session: Session, hang_up: Callable[[], None]) -> Iterator[None]:
        """Lets `stop` reach a session while it runs.

        Args:
            session: The session.
            hang_up: Ends it at once, from another thread.

        Raises:
            Refused: The site is being stopped.
        """
        with self._left:
            self.check_going_on()
            self._sessions[session] = hang_up
        try:
            yield
        finally:
            with self._left:
                del self._sessions[session]
                self._left.notify_all()

    def stop(self, seconds: float) -> None:
        """Leaves all sessions in an orderly way, and hangs up on those that last longer.

        A session that owes nothing is not waited for: its server may have vanished.

        Args:
            seconds: Time for the step that is under way.
        """
        deadline = time.monotonic() + seconds
        self.stopping.set()
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
