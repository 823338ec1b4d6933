"""The states of a session at a site, and all transitions; docs/protocol.md has the same table."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class ClientState(Enum):
    """What this site has done last."""

    NEW = "new"
    ANNOUNCED = "announced"
    KEYED = "keyed"
    READY = "ready"
    CALLED = "called"
    CHARGED = "charged"
    UPLOADING = "uploading"
    BROKEN = "broken"
    DELIVERED = "delivered"
    FORGONE = "forgone"
    FINISHED = "finished"
    LEFT = "left"


_NEXT: Mapping[ClientState, frozenset[ClientState]] = {
    ClientState.NEW: frozenset({ClientState.ANNOUNCED}),
    ClientState.ANNOUNCED: frozenset({ClientState.KEYED}),
    ClientState.KEYED: frozenset({ClientState.READY}),
    ClientState.READY: frozenset({ClientState.CALLED, ClientState.FINISHED}),
    ClientState.CALLED: frozenset({ClientState.CHARGED}),
    ClientState.CHARGED: frozenset({ClientState.UPLOADING}),
    ClientState.UPLOADING: frozenset(
        {ClientState.DELIVERED, ClientState.BROKEN, ClientState.FORGONE}
    ),
    ClientState.BROKEN: frozenset(
        {ClientState.UPLOADING, ClientState.BROKEN, ClientState.DELIVERED, ClientState.FORGONE}
    ),
    ClientState.DELIVERED: frozenset({ClientState.READY}),
    ClientState.FORGONE: frozenset({ClientState.READY}),
    ClientState.FINISHED: frozenset(),
    ClientState.LEFT: frozenset(),
}

# From everywhere but the end a site may leave: it refuses, or it fails.
CLIENT_TRANSITIONS: Mapping[ClientState, frozenset[ClientState]] = MappingProxyType(
    {state: after | {ClientState.LEFT} if after else after for state, after in _NEXT.items()}
)


class ClientStates:
    """Where one session of this site is; it moves by the table or not at all."""

    def __init__(self) -> None:
        self._state = ClientState.NEW

    @property
    def now(self) -> ClientState:
        """The state."""
        return self._state

    def enter(self, state: ClientState) -> None:
        """Moves on.

        Raises:
            RuntimeError: The table has no such transition.
        """
        if state not in CLIENT_TRANSITIONS[self._state]:
            raise RuntimeError(f"a session that is {self._state.value} cannot be {state.value}")
        self._state = state
