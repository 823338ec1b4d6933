"""The states of a session at the server, and all transitions; docs/protocol.md has the same tables."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class SiteState(Enum):
    """Where one site of the cohort is."""

    INVITED = "invited"
    ANNOUNCED = "announced"
    ENCAPSULATED = "encapsulated"
    READY = "ready"
    CALLED = "called"
    UPLOADING = "uploading"
    DELIVERED = "delivered"
    LEFT = "left"


class SiteEvent(Enum):
    """What moves it."""

    ANNOUNCE = "Announce"
    ENCAPSULATE = "Encapsulate"
    READY = "Ready"
    GO = "Go"
    UPLOAD = "Upload"
    LAST_CHUNK = "last chunk"
    LEAVE = "leave"


class Phase(Enum):
    """Where the session is."""

    JOINING = "joining"
    GATHERING = "gathering"
    SUMMING = "summing"
    CLOSED = "closed"


class PhaseEvent(Enum):
    """What moves it."""

    KEYS = "keys"
    GO = "Go"
    COMPLETE = "complete"
    DISCARD = "discard"
    CLOSE = "close"


_LEAVING = {(state, SiteEvent.LEAVE): SiteState.LEFT for state in SiteState}

SITE_TRANSITIONS: Mapping[tuple[SiteState, SiteEvent], SiteState] = MappingProxyType(
    {
        (SiteState.INVITED, SiteEvent.ANNOUNCE): SiteState.ANNOUNCED,
        (SiteState.ANNOUNCED, SiteEvent.ENCAPSULATE): SiteState.ENCAPSULATED,
        (SiteState.ENCAPSULATED, SiteEvent.READY): SiteState.READY,
        # A newer call takes the place of one whose connection was lost.
        (SiteState.READY, SiteEvent.READY): SiteState.READY,
        (SiteState.READY, SiteEvent.GO): SiteState.CALLED,
        (SiteState.CALLED, SiteEvent.UPLOAD): SiteState.UPLOADING,
        # A broken upload resumes.
        (SiteState.UPLOADING, SiteEvent.UPLOAD): SiteState.UPLOADING,
        (SiteState.UPLOADING, SiteEvent.LAST_CHUNK): SiteState.DELIVERED,
        (SiteState.DELIVERED, SiteEvent.READY): SiteState.READY,
        # Ready without the vector that is due: it has spoilt the attempt, and must not spoil more.
        (SiteState.CALLED, SiteEvent.READY): SiteState.LEFT,
        (SiteState.UPLOADING, SiteEvent.READY): SiteState.LEFT,
        **_LEAVING,
    }
)

PHASE_TRANSITIONS: Mapping[tuple[Phase, PhaseEvent], Phase] = MappingProxyType(
    {
        (Phase.JOINING, PhaseEvent.KEYS): Phase.GATHERING,
        (Phase.GATHERING, PhaseEvent.GO): Phase.SUMMING,
        (Phase.SUMMING, PhaseEvent.COMPLETE): Phase.GATHERING,
        (Phase.SUMMING, PhaseEvent.DISCARD): Phase.GATHERING,
        (Phase.JOINING, PhaseEvent.CLOSE): Phase.CLOSED,
        (Phase.GATHERING, PhaseEvent.CLOSE): Phase.CLOSED,
        (Phase.SUMMING, PhaseEvent.CLOSE): Phase.CLOSED,
        (Phase.CLOSED, PhaseEvent.CLOSE): Phase.CLOSED,
    }
)
