"""A server that lies about cohort, step, attempt, adapter, session or the past.

Each lie ends in a refusal with its reason in the site's log, or gives the server noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attacks.hostile import HostileServer, go, serving_hostile
from attacks.world import SITES, World, is_noise
from numpy.typing import NDArray

from hortus.protocol.policy import Budget

Adapter = NDArray[np.float32]
LogOf = Callable[[str], str]


def play(world: World, server: HostileServer, **options: Any) -> dict[str, str]:
    """Runs all sites against the server; returns why each says it left."""
    with serving_hostile(server, world.consortium.server.tls) as port:
        replies = world.play(port, **options)
    return {site: reply.reason for site, reply in replies.items()}


def test_without_a_lie_the_server_gets_the_sum_and_each_upload_is_noise(
    world: World, adapter: Adapter
) -> None:
    server = HostileServer(lambda _: [go(adapter)], [adapter])
    assert set(play(world, server).values()) == {"done"}
    assert np.array_equal(server.total(), world.true_sum(SITES, 0, 0, adapter))
    assert all(is_noise(words) for words in server.uploads.values())
    assert is_noise(server.total(sites=SITES[:3])), "and so is any part of the sum"


def test_vectors_without_masks_would_not_pass_for_noise(world: World, adapter: Adapter) -> None:
    """The control of every test here that says `is_noise`."""
    for site in SITES:
        assert not is_noise(world.vector(site, 0, 0, adapter).astype(np.uint32))
    assert not is_noise(world.true_sum(SITES, 0, 0, adapter))


def _survivors(adapter: Adapter, site: str) -> Any:
    return go(adapter, survivors=SITES[:3] if site == "ash" else SITES)


def _two_cohorts(adapter: Adapter, site: str) -> Any:
    return go(adapter, survivors=SITES[:3] if site in SITES[:2] else (SITES[0], *SITES[2:]))


def _step(adapter: Adapter, site: str) -> Any:
    return go(adapter, step=1 if site == "ash" else 0)


def _attempt(adapter: Adapter, site: str) -> Any:
    return go(adapter, attempt=1 if site == "ash" else 0)


def _adapter(adapter: Adapter, site: str) -> Any:
    return go(adapter + 1 if site == "ash" else adapter)


@pytest.mark.parametrize("lie", [_survivors, _two_cohorts, _step, _attempt, _adapter])
def test_split_views_give_noise(
    world: World, adapter: Adapter, lie: Callable[[Adapter, str], Any]
) -> None:
    """Whatever the server adds up, of whomever: nothing cancels."""
    server = HostileServer(lambda site: [lie(adapter, site)], [adapter, adapter + 1])
    play(world, server)
    uploads = list(server.uploads.values())
    assert len(uploads) >= 3
    assert is_noise(np.sum(uploads, axis=0, dtype=np.uint32))
    for left_out in range(len(uploads)):
        rest = uploads[:left_out] + uploads[left_out + 1 :]
        assert is_noise(np.sum(rest, axis=0, dtype=np.uint32))


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"survivors": SITES[:2]}, "the sum would be over 2 sites, the minimum is 3"),
        ({"survivors": ("ash",)}, "the sum would be over 1 sites, the minimum is 3"),
        ({"survivors": SITES[1:]}, "lacks this site"),
        ({"survivors": (*SITES, "elm")}, "do not belong"),
        ({"survivors": ("ash", "ash", "birch", "cedar")}, "not sorted and distinct"),
        ({"survivors": SITES[::-1]}, "not sorted and distinct"),
        ({"survivors": ()}, "lacks this site"),
        ({"step": 4}, "asked for step 4"),
        ({"step": 2**32 - 1}, "Go.step is 4294967295, the limit is"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_go_is_refused_before_anything_is_paid_or_sent(
    world: World, adapter: Adapter, log_of: LogOf, lie: dict[str, Any], reason: str
) -> None:
    lies = {"ash": [go(adapter, **lie)]}
    server = HostileServer(lambda site: lies.get(site, []), [adapter])
    play(world, server)
    assert reason in log_of("ash")
    assert not server.uploads
    assert not world.charges("ash")
    assert "ash" in server.refusals, "the server is told, so that honest others are"


def test_a_step_is_never_taken_back(world: World, adapter: Adapter, log_of: LogOf) -> None:
    turns = [go(adapter, step=2), go(adapter, step=1)]
    server = HostileServer(lambda site: turns if site == "ash" else turns[:1], [adapter])
    play(world, server)
    assert "asked for step 1 attempt 0 after (2, 0)" in log_of("ash")
    assert world.charges("ash") == [(server_session(world), 2, 0)]


def test_a_replayed_go_is_refused(world: World, adapter: Adapter, log_of: LogOf) -> None:
    server = HostileServer(lambda _: [go(adapter), go(adapter)], [adapter])
    play(world, server)
    for site in SITES:
        assert "asked for step 0 attempt 0 after (0, 0)" in log_of(site)
        assert world.charges(site) == [(server_session(world), 0, 0)]


def test_a_session_replayed_to_restarted_sites_is_refused_by_their_ledgers(
    world: World, adapter: Adapter, log_of: LogOf
) -> None:
    """A server rolled back to before the session: keys are fresh, but an attempt is used once."""
    play(world, HostileServer(lambda _: [go(adapter)], [adapter]))
    second = HostileServer(lambda _: [go(adapter)], [adapter])
    reasons = play(world, second)
    assert not second.uploads
    for site in SITES:
        assert "step 0, attempt 0 was used before" in reasons[site]
        assert len(world.charges(site)) == 1


def test_a_server_that_rolls_its_state_back_pays_from_the_same_budget(
    make_world: Callable[..., World],
) -> None:
    """New sessions of a round that is long done: each is charged, until the budget is spent."""
    world, cohort = make_world(policy={"budget": Budget(epsilon=0.35, delta=1e-3)}), SITES[:3]
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    uploads = []
    for number in range(3):
        descriptor = world.descriptor(session=f"{number:032x}", cohort=cohort)
        server = HostileServer(lambda _: [go(adapter, survivors=cohort)], [adapter], cohort)
        requests = dict.fromkeys(cohort, world.request(descriptor))
        reasons = play(world, server, requests=requests)
        uploads.append(len(server.uploads))
    assert uploads == [3, 3, 0]
    for site in cohort:
        assert "its budget is spent: one more step would bring its lifetime to ε" in reasons[site]
        charges = world.charges(site)
        assert [session for session, _, _ in charges] == ["0" * 32, "0" * 31 + "1"]
        (dataset,) = world.site(site).ledger.accounts()
        assert world.site(site).ledger.spent(dataset, world.contract.privacy.delta) <= 0.35


@pytest.mark.parametrize("noise", ["distributed", "local"])
def test_the_late_upload_trick_gives_nothing_that_was_not_charged(
    make_world: Callable[..., World], noise: str
) -> None:
    """Attempt 0 of all, dogwood called missing, attempt 1 of the rest: the server has both sums.

    Their difference bears the noise of two charged releases (`distributed`), or is one vector that
    was charged as private by itself (`local`). Three standard deviations of a sample standard
    deviation of 4195 draws are 3.3 %; the signal is a few per cent of the noise.
    """
    world = make_world(privacy={"noise": noise})
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    rest = SITES[:3]
    turns = {site: [go(adapter), go(adapter, attempt=1, survivors=rest)] for site in rest}
    server = HostileServer(lambda site: turns.get(site, [go(adapter)]), [adapter])
    play(world, server)
    assert is_noise(server.total(attempt=0, sites=rest)), "the incomplete attempt is noise"
    first, second = server.total(attempt=0), server.total(attempt=1)
    assert np.array_equal(first, world.true_sum(SITES, 0, 0, adapter))
    charges = {site: len(world.charges(site)) for site in SITES}
    difference = (first - second).astype(np.int32)
    one_share = world.descriptor().scale * 5.0
    if noise == "distributed":
        # Each of seven vectors has the share of one of min_honest = 2 sites.
        assert difference.std() >= 0.95 * one_share * np.sqrt(7 / 2)
        assert charges == {"ash": 2, "birch": 2, "cedar": 2, "dogwood": 1}
    else:
        assert np.array_equal(
            difference.astype(np.uint32), world.vector("dogwood", 0, 0, adapter).astype(np.uint32)
        )
        assert difference.std() >= 0.95 * one_share
        assert set(charges.values()) == {1}


@pytest.mark.parametrize(
    ("field", "told"),
    [("session", "3" * 32), ("run", "4" * 32), ("first_round", 1), ("cohort", SITES[:3])],
)
def test_sites_shown_different_sessions_never_agree_on_keys(
    world: World, adapter: Adapter, log_of: LogOf, field: str, told: Any
) -> None:
    requests = dict.fromkeys(SITES, world.request())
    requests["ash"] = world.request(world.descriptor(**{field: told}))
    server = HostileServer(lambda _: [go(adapter)], [adapter])
    play(world, server, requests=requests)
    assert not server.uploads
    assert any(
        "does not match the key" in log_of(site) or "not in the session's cohort" in log_of(site)
        for site in SITES
    )
    assert not any(world.charges(site) for site in SITES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cohort": SITES[:2]}, "2 sites are fewer than the plan's 3"),
        ({"cohort": SITES[1:]}, "this site is not in the session's cohort"),
        ({"dimension": 10}, "the session's dimension is 10"),
        ({"scale": 3}, "the session's scale is 3"),
        ({"contract": "0" * 64}, "the session's contract is 0000"),
        ({"first_round": 2}, "the plan has no round 3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_session_that_the_contract_does_not_allow_is_refused(
    world: World, adapter: Adapter, log_of: LogOf, changes: dict[str, Any], reason: str
) -> None:
    request = world.request(world.descriptor(**changes))
    server = HostileServer(lambda _: [go(adapter)], [adapter])
    play(world, server, requests={"ash": request})
    assert reason in log_of("ash")
    assert not server.announced


def server_session(world: World) -> str:
    """The session's name in every ledger."""
    return world.descriptor().session


def test_is_noise_accepts_uniform_words_and_not_masked_by_a_constant() -> None:
    words = np.random.default_rng(1).integers(0, 2**32, 4195, dtype=np.uint32)
    assert is_noise(words)
    assert not is_noise(words & np.uint32(0xFFFFFF))
