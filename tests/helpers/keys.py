"""A site's key exchange, message by message, with whatever stands for the server."""

from collections.abc import Callable
from dataclasses import asdict

from hortus.privacy.secure_sum.key_exchange import (
    KeyExchange,
    read_announcement,
    read_encapsulation,
)
from hortus.privacy.secure_sum.masks import MaskGenerator
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.wire import aggregation_pb2 as wire


def exchange_keys(
    identity: Identity,
    roster: Roster,
    descriptor: Descriptor,
    announce: Callable[[wire.Announcement], wire.Announcements],
    encapsulate: Callable[[wire.Encapsulations], wire.Encapsulations],
) -> MaskGenerator:
    """Goes by the book; returns the site's masks for two sites or more."""
    digest = descriptor.digest()
    exchange = KeyExchange.announce(identity, roster, descriptor.cohort, digest)
    announced = announce(
        wire.Announcement(
            protocol=PROTOCOL_VERSION,
            session=descriptor.session,
            **asdict(exchange.announcement),
        )
    )
    sealed = exchange.encapsulate(map(read_announcement, announced.announcements))
    received = encapsulate(
        wire.Encapsulations(
            session=descriptor.session,
            encapsulations=[wire.Encapsulation(**asdict(one)) for one in sealed],
        )
    )
    return exchange.agree(map(read_encapsulation, received.encapsulations), min_cohort=2)
