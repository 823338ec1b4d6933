"""A server that puts its own keys between sites, and sites that conspire with it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from attacks.hostile import HostileServer, go, serving_hostile
from attacks.rogue import Rogue
from attacks.world import SITES, World, is_noise, run_all
from numpy.typing import NDArray

from hortus.privacy.secure_sum.key_exchange import KeyExchange
from hortus.privacy.secure_sum.masks import StepView
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.wire import aggregation_pb2 as wire

Adapter = NDArray[np.float32]
LogOf = Callable[[str], str]
NOT_SIGNED = "its signature of the secure-sum announcement does not match the key in the pinned"


def play(world: World, server: HostileServer, sites: Sequence[str] = SITES) -> None:
    with serving_hostile(server, world.consortium.server.tls) as port:
        world.play(port, dict.fromkeys(sites, world.request()))


def assert_nothing_left(world: World, server: HostileServer) -> None:
    assert not server.uploads
    assert not any(world.charges(site) for site in SITES)


class OfItsOwnMaking(HostileServer):
    """Puts in keys of which it has the private half, under birch's name."""

    def announcements(self, site: str) -> list[wire.Announcement]:
        identity = Identity.generate("birch")
        roster = Roster({"birch": identity.public_key_bytes, "x": bytes(32)}, bytes(31) + b"\1")
        own = KeyExchange.announce(identity, roster, ("birch", "x"), bytes(32)).announcement
        forged = wire.Announcement(
            session=self.announced["birch"].session,
            site="birch",
            x25519=own.x25519,
            mlkem=own.mlkem,
            signature=own.signature,
        )
        return [forged if one.site == "birch" else one for one in super().announcements(site)]


class Swapping(HostileServer):
    """Hands out birch's keys as cedar's and the other way round."""

    def announcements(self, site: str) -> list[wire.Announcement]:
        names = {"birch": "cedar", "cedar": "birch"}
        swapped = []
        for one in super().announcements(site):
            other = self.announced[names.get(one.site, one.site)]
            swapped.append(wire.Announcement(**{**_fields(other), "site": one.site}))
        return swapped


class HalfSwapping(HostileServer):
    """Keeps the signature and the ML-KEM key, and changes the X25519 key alone."""

    def announcements(self, site: str) -> list[wire.Announcement]:
        changed = wire.Announcement(**_fields(self.announced["birch"]) | {"x25519": bytes(32)})
        return [changed if one.site == "birch" else one for one in super().announcements(site)]


class Omitting(HostileServer):
    """Leaves dogwood's keys out."""

    def announcements(self, site: str) -> list[wire.Announcement]:
        return super().announcements(site)[:3]


class Doubling(HostileServer):
    """Shows birch's keys twice."""

    def announcements(self, site: str) -> list[wire.Announcement]:
        honest = super().announcements(site)
        return [*honest, honest[1]]


def _fields(one: wire.Announcement) -> dict[str, str | bytes]:
    return {descriptor.name: value for descriptor, value in one.ListFields()}


@pytest.mark.parametrize(
    ("server_class", "reason"),
    [
        (OfItsOwnMaking, NOT_SIGNED),
        (Swapping, NOT_SIGNED),
        (HalfSwapping, NOT_SIGNED),
        (Omitting, "dogwood: this site's message is missing"),
        (Doubling, "birch: this site's message arrived twice"),
    ],
)
def test_keys_that_their_site_did_not_sign_are_refused(
    world: World,
    adapter: Adapter,
    log_of: LogOf,
    server_class: type[HostileServer],
    reason: str,
) -> None:
    server = server_class(lambda _: [go(adapter)], [adapter])
    play(world, server)
    assert reason in log_of("ash")
    assert_nothing_left(world, server)


def test_keys_kept_from_another_session_are_refused(
    world: World, adapter: Adapter, log_of: LogOf
) -> None:
    """Their private half may have leaked since; the descriptor is in what a site signs."""
    earlier = HostileServer(lambda _: [], [adapter])
    with serving_hostile(earlier, world.consortium.server.tls) as port:
        request = world.request(world.descriptor(session="9" * 32))
        world.play(port, dict.fromkeys(SITES, request))

    class Replaying(HostileServer):
        def announcements(self, site: str) -> list[wire.Announcement]:
            old = earlier.announced["birch"]
            return [old if one.site == "birch" else one for one in super().announcements(site)]

    server = Replaying(lambda _: [go(adapter)], [adapter])
    play(world, server)
    assert NOT_SIGNED in log_of("ash")
    assert_nothing_left(world, server)


def test_ciphertexts_of_the_servers_making_are_refused(
    world: World, adapter: Adapter, log_of: LogOf
) -> None:
    class Encapsulating(HostileServer):
        def encapsulations(self, site: str) -> list[wire.Encapsulation]:
            changed = []
            for one in super().encapsulations(site):
                copy = wire.Encapsulation()
                copy.CopyFrom(one)
                if (one.sender, one.receiver) == ("birch", "cedar"):
                    copy.ciphertext = bytes(1088)
                changed.append(copy)
            return changed

    server = Encapsulating(lambda _: [go(adapter)], [adapter])
    play(world, server)
    assert "its signature of the secure-sum encapsulation does not match" in log_of("cedar")
    assert ("cedar", 0, 0) not in server.uploads
    assert not world.charges("cedar")


def _pin(world: World, keys: dict[str, bytes]) -> None:
    """Changes ash's roster as its operator does."""
    path = world.consortium.site("ash").roster
    replace(Roster.load(path), sites=keys).save(path)


def test_the_key_of_a_removed_site_is_refused(
    world: World, adapter: Adapter, log_of: LogOf
) -> None:
    kept = dict(Roster.load(world.consortium.site("ash").roster).sites)
    del kept["birch"]
    _pin(world, kept)
    server = HostileServer(lambda _: [go(adapter)], [adapter])
    play(world, server, ["ash"])
    assert "birch: the cohort has sites that do not belong in it" in log_of("ash")
    assert not server.announced, "not even this site's keys are sent"
    assert_nothing_left(world, server)


def test_a_key_that_its_site_has_replaced_is_refused(
    world: World, adapter: Adapter, log_of: LogOf
) -> None:
    keys = dict(Roster.load(world.consortium.site("ash").roster).sites)
    _pin(world, keys | {"birch": Identity.generate("birch").public_key_bytes})
    server = HostileServer(lambda _: [go(adapter)], [adapter])
    play(world, server)
    assert f"birch: {NOT_SIGNED}" in log_of("ash")
    assert_nothing_left(world, server)


def _conspire(traitor: Rogue, port: int, view: StepView) -> None:
    with traitor.joined(port):
        traitor.ready()
        traitor.upload(traitor.masked_zeros(view), view)


@pytest.mark.parametrize(
    ("conspiring", "hidden"), [(1, True), (2, True), (3, False)], ids=["one", "two", "all others"]
)
def test_what_conspirators_tell_the_server_leaves_noise_while_two_are_honest(
    world: World, adapter: Adapter, conspiring: int, hidden: bool
) -> None:
    """Up to cohort − 2 conspirators' masks come off an upload and noise is left.

    With all others against it, ash's vector is bare: the control, in which the same test fails.
    Its vector then still has its own share of the noise.
    """
    turn = go(adapter)
    view = StepView(0, 0, SITES, bytes.fromhex(turn.adapter_digest))
    traitors = [Rogue(world, site) for site in SITES[len(SITES) - conspiring :]]
    server = HostileServer(lambda _: [turn], [adapter])
    with serving_hostile(server, world.consortium.server.tls) as port:
        honest = SITES[: len(SITES) - conspiring]
        work = {t.site: partial(_conspire, t, port, view) for t in traitors}
        work["honest sites"] = lambda: world.play(port, dict.fromkeys(honest, world.request()))
        run_all(work, 60)
    stripped = server.uploads["ash", 0, 0].copy()
    for traitor in traitors:
        stripped -= traitor.mask_with("ash", view)
    assert is_noise(stripped) is hidden
    if not hidden:
        assert np.array_equal(stripped, world.vector("ash", 0, 0, adapter).astype(np.uint32))
