"""Sums while the consortium's TLS authority, and the server's identity key, give way to new ones."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
from attacks.world import SITES, World, run_all, served

from hortus.parties.authority import begin_change, finish_change
from hortus.parties.card import ServerCard
from hortus.parties.identity_change import rotate_server_identity
from hortus.parties.joining import pin
from hortus.privacy.audit.auditor import audit
from hortus.privacy.audit.evidence import collect
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.names import SERVER

NOW = datetime.now(UTC)


def follow(world: World, card: ServerCard, sites: Sequence[str]) -> None:
    for site in sites:
        pin(world.consortium.site(site), card, [], NOW)


def sum_of_all(world: World, session: str) -> None:
    """One sum that needs, and gets, every site."""
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    request = world.request(world.descriptor(session=session))
    with served(world, session) as (aggregator, port):

        def serve() -> None:
            aggregator.exchange_keys()
            assert aggregator.sum(0, adapter).sites == SITES
            aggregator.close("done")

        requests = dict.fromkeys(SITES, request)
        run_all({"server": serve, "sites": lambda: world.play(port, requests)}, 90)
    assert dict(aggregator.departures) == {}


def test_sums_go_on_over_a_new_authority_and_a_new_identity_of_the_server(
    world: World, log_of: Callable[[str], str]
) -> None:
    server = world.consortium.server
    old = Identity.load(server.identity, SERVER)
    follow(world, begin_change(server, NOW), SITES[:2])
    sum_of_all(world, "a" * 32)
    follow(world, begin_change(server, NOW), SITES[2:])
    follow(world, finish_change(server, NOW), SITES[1:3])
    sum_of_all(world, "b" * 32)  # each Ready shows the head of session a, which the old key signs
    card = rotate_server_identity(server, NOW)
    follow(world, card, SITES[1:])
    with served(world) as (_, port):
        world.play(port, {"ash": world.request()})
    assert "of the session does not match the key in the pinned roster" in log_of("ash")
    follow(world, card, SITES[:1])
    sum_of_all(world, "c" * 32)
    for site in SITES:
        files = world.consortium.site(site)
        evidence = collect(files, site)
        keys = {one.is_signed_by(old.public_key_bytes) for one in evidence.countersignatures}
        assert keys == {True, False}, "the old key and a new one have countersigned"
        assert audit(evidence, Roster.load(files.roster)).first_broken is None
        assert len(world.charges(site)) == 3
