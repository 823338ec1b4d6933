"""A server that asks for another plan, another model, or other people than it should."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from attacks.hostile import HostileServer, serving_hostile
from attacks.world import SITES, World, issued

from hortus.client.agent import SiteAgent
from hortus.client.agent_service import listening
from hortus.client.consent.admission import Gate
from hortus.client.consent.terms import NO_VIEW
from hortus.client.disclosure import FAILED
from hortus.client.pace import Clock, MachineClock, RehearsalClock
from hortus.client.trainer import untimed
from hortus.learning.models.folder import model_digest
from hortus.parties.folders import SiteConfig, TlsFiles
from hortus.privacy.ledger.charges import Added
from hortus.protocol.certificates import create_authority
from hortus.protocol.limits import PROTOCOL_VERSION
from hortus.protocol.plan import Cohort, Contract
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc
from hortus.runtime.errors import DataError

LogOf = Callable[[str], str]
WorldMaker = Callable[..., World]


def changed(contract: Contract, section: str, **fields: Any) -> Contract:
    """The contract with a few fields of one section changed; of its own, for section ''."""
    content = contract.model_dump()
    (content[section] if section else content).update(fields)
    return Contract.model_validate(content)


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("privacy", {"noise_multiplier": 0.01}),
        ("privacy", {"clipping_norm": 1000.0}),
        (
            "privacy",
            {"noise": "unsafe_none", "noise_multiplier": None, "spare_attempts": None},
        ),
        ("privacy", {"spare_attempts": 0}),
        ("cohort", {"minimum": 2}),
        ("cohort", {"max_colluding": 0}),
        ("training", {"sampling_rate": 1.0}),
        ("training", {"rounds": 10_000}),
        ("", {"model": "/"}),
        ("", {"model_digest": "0" * 64}),
        ("", {"seed": 1}),
    ],
    ids=str,
)
def test_a_plan_other_than_the_approved_is_refused(
    world: World,
    section: str,
    fields: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,  # a socket's path is short, this test's name is not
) -> None:
    """Over the agent's own socket, as the relay asks; the session is as the plan would have it."""
    contract = changed(world.contract, section, **fields)
    descriptor = world.descriptor().model_copy(update={"contract": contract.digest()})
    agent = world.agent(world.site("ash"), port=1)
    with (
        listening(agent, tmp_path_factory.mktemp("run")) as socket,
        grpc.insecure_channel(f"unix:{socket}") as channel,
    ):
        relay = rpc.AgentStub(channel)
        considered = relay.Consider(world.question(contract))
        taken = relay.TakePart(world.request(descriptor, contract))
    assert "is not approved here" in considered.refusal
    assert "is not approved here" in taken.reason
    assert not world.charges("ash")
    at_the_door, in_the_session = world.refusals("ash")
    assert (at_the_door.plan, at_the_door.run) == (contract.digest(), "")
    assert (in_the_session.plan, in_the_session.run) == (contract.digest(), descriptor.run)
    assert (at_the_door.reason, in_the_session.reason) == (considered.refusal, taken.reason)


def test_a_base_model_other_than_the_approved_is_refused(
    world: World, tiny_model: Path, tmp_path: Path, log_of: LogOf
) -> None:
    """The site's own copy has other weights: a server may have supplied it."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    files = world.consortium.site("ash")
    config = yaml.safe_load(files.config.read_text()) | {"model": str(copy)}
    files.config.write_text(yaml.safe_dump(config))
    server = HostileServer(lambda _: [], [])
    with serving_hostile(server, world.consortium.server.tls) as port:
        replies = world.play(port, {"ash": world.request()})
    assert "this site's copy of the base model differs from the plan's" in replies["ash"].reason
    assert model_digest(copy)[:16] not in replies["ash"].reason
    assert "copy of the base model" in log_of("ash")
    assert not server.announced


def test_what_the_pinned_server_has_not_signed_is_refused(world: World, log_of: LogOf) -> None:
    """An approved plan, from somebody who reached the SuperLink: unsigned, or signed by a site."""
    agent = world.agent(world.site("ash"), port=1)
    question, request = world.question(world.contract), world.request()
    site = world.site("birch").identity
    forged = (
        b"",
        site.sign("contract", question.contract),
        world.server.sign("session", question.contract),
        world.server.sign("contract", question.contract + b" "),
    )
    for signature in forged:
        question.signature = signature
        assert agent.consider(question).refusal == FAILED
    for signature in (b"", world.server.sign("contract", request.descriptor)):
        request.signature = signature
        assert agent.take_part(request).reason == FAILED
    assert not world.charges("ash")
    assert not world.refusals("ash"), "whoever is not the server cannot fill the ledger"


def test_a_simulation_tells_why_a_site_fails(world: World) -> None:
    """It has no log of the site's own that could be looked into."""
    site = world.site("ash")
    site.data.write_text("text,label,patient\nsky is red,warm,p1\ngrass,colder,p1\n")
    hidden, open_ = (
        SiteAgent(site, lambda _: world.workbench, nobody, untimed, RehearsalClock(), hides=hides)
        for hides in (True, False)
    )
    question = world.question(world.contract)
    assert hidden.consider(question).refusal == FAILED
    with pytest.raises(DataError, match=r"ash\.csv, line 3.*'colder'"):
        open_.consider(question)


def nobody(_: Cohort) -> Any:
    raise AssertionError("nobody is dialled")


def auto_approving(
    make_world: WorldMaker, model: Path, max_epsilon: float, max_plans: int = 20
) -> World:
    """A world that takes part in plans like the approved one although nobody has read them."""
    auto = {
        "max_epsilon": max_epsilon,
        "models": [model_digest(model)],
        "tasks": [make_world().contract.task.digest()],
        "max_rounds": 2,
        "min_cohort": 3,
        "max_plans": max_plans,
    }
    world = make_world(policy={"auto_approve": auto}, cohort={"join_deadline": 1.0})
    config = world.consortium.site("ash").config
    SiteConfig.load(config).model_copy(update={"model": str(model)}).save(config)
    return world


def test_a_plan_that_nobody_has_read_is_held_to_its_ceiling_in_every_attempt(
    make_world: WorldMaker, tiny_model: Path
) -> None:
    """The site allows what the plan plans; a server that provokes repeats gets no more."""
    world = auto_approving(make_world, tiny_model, 0.001)
    agent = world.agent(world.site("ash"), port=1)
    refusal = agent.consider(world.question(world.contract)).refusal
    assert "auto_approve.max_epsilon" in refusal
    assert "auto_approve.max_epsilon" in agent.take_part(world.request()).reason
    assert not world.charges("ash")


def test_a_plan_that_nobody_has_read_cannot_ask_which_labels_there_are(
    make_world: WorldMaker, tiny_model: Path
) -> None:
    """Whether the records fit is told to the server: it must not be free to say what they shall fit."""
    world = auto_approving(make_world, tiny_model, 1000.0)
    agent = world.agent(world.site("ash"), port=1)
    assert agent.consider(world.question(world.contract)).refusal == ""
    for task in ({"labels": ("warm", "fresh")}, {"text": "patient"}, {"label": "patient"}):
        refusal = agent.consider(world.question(changed(world.contract, "task", **task))).refusal
        assert "auto_approve.tasks" in refusal


def test_a_plan_that_nobody_has_read_cannot_ask_which_folders_there_are(
    make_world: WorldMaker, tiny_model: Path, tmp_path: Path
) -> None:
    """Whatever path it names, the answer is the same: for a model, a folder, a file and nothing."""
    world = auto_approving(make_world, tiny_model, 1000.0)
    paths = (str(tiny_model), str(tmp_path), "site.yaml", "no/such/folder", "../../..", "/dev/zero")
    for site, answer in (("ash", ""), ("birch", "site.yaml: model: a plan that nobody here has")):
        agent = world.agent(world.site(site), port=1)
        told = {
            agent.consider(world.question(changed(world.contract, "", model=path))).refusal
            for path in paths
        }
        assert len(told) == 1
        assert told.pop().startswith(answer)


def test_plans_that_nobody_has_read_cannot_fill_the_disk(
    make_world: WorldMaker, tiny_model: Path
) -> None:
    """Nobody answers at the port, so that each session ends, and leaves its plan behind."""
    world = auto_approving(make_world, tiny_model, 1000.0, max_plans=2)
    site = world.site("ash")
    agent = world.agent(site, port=1)

    def take_part(name: str) -> str:
        contract = changed(world.contract, "", name=name)
        descriptor = world.descriptor(contract=contract.digest())
        return agent.take_part(world.request(descriptor, contract)).reason

    for name in ("one", "two"):
        assert "auto_approve" not in take_part(name)
    kept = site.kept_contracts()
    assert len(kept) == 2
    for number in range(20):
        other = changed(world.contract, "", name=f"plan-{number}")
        assert "auto_approve.max_plans" in take_part(other.name)
        assert "auto_approve.max_plans" in agent.consider(world.question(other)).refusal
    assert site.kept_contracts() == kept, "an audit needs what may have been charged"
    assert "auto_approve" not in take_part("one")


def test_a_plan_that_nobody_approved_makes_a_site_read_nothing(world: World) -> None:
    """The policy comes first: else a server could have any folder opened, and hear of it."""
    contract = changed(world.contract, "", model="no/such/folder")
    agent = world.agent(world.site("ash"), port=1)
    assert "is not approved here" in agent.consider(world.question(contract)).refusal


def test_a_reason_of_the_server_cannot_forge_lines_of_a_log(world: World, log_of: LogOf) -> None:
    class Forging(HostileServer):
        def finished(self, site: str) -> wire.Turn:
            forged = "done\n2026-01-01 INFO approved plan \x1b[2J" + "x" * 1900
            return wire.Turn(finished=wire.Finished(reason=forged))

    server = Forging(lambda _: [], [])
    with serving_hostile(server, world.consortium.server.tls) as port:
        replies = world.play(port)
    for reply in replies.values():
        assert reply.reason.startswith("done")
        assert reply.reason.isprintable()
        assert len(reply.reason) <= 500


def _foreign_authority(world: World, directory: Path) -> TlsFiles:
    create_authority(directory, world.started)
    tls = issued(directory, "server", directory / "tls", world.started, ("127.0.0.1",))
    # It asks for the consortium's certificates as the true server does, and shows its own.
    return replace(tls, authority=world.consortium.server.tls.authority)


def _a_sites_own(world: World, _: Path) -> TlsFiles:
    return world.consortium.site("dogwood").tls


@pytest.mark.parametrize("of", [_foreign_authority, _a_sites_own])
def test_somebody_between_site_and_server_is_not_spoken_to(
    make_world: Callable[..., World],
    tmp_path: Path,
    log_of: LogOf,
    of: Callable[[World, Path], TlsFiles],
) -> None:
    world = make_world(cohort={"join_deadline": 1.0})
    server = HostileServer(lambda _: [], [])
    with serving_hostile(server, of(world, tmp_path / "foreign")) as port:
        world.play(port, dict.fromkeys(SITES[:1], world.request()))
    assert "cannot be reached, or its certificate is not the consortium's" in log_of("ash")
    assert not server.announced


def test_a_wrong_session_is_named_in_the_log(world: World, log_of: LogOf) -> None:
    """A descriptor of another protocol version, and one that is no JSON at all."""
    agent = world.agent(world.site("ash"), port=1)
    request = world.request()
    for descriptor in (request.descriptor.replace(b'"protocol":1', b'"protocol":2'), b"{", b"\xff"):
        assert descriptor != request.descriptor
        reply = agent.take_part(
            wire.TakePartRequest(
                protocol=PROTOCOL_VERSION,
                contract=request.contract,
                descriptor=descriptor,
                signature=world.server.sign("session", descriptor),
            )
        )
        assert "the session descriptor is malformed" in reply.reason


@pytest.mark.parametrize(
    ("is_seeded", "clock", "noise"),
    [
        (False, MachineClock(), Added.GAUSSIAN),
        (False, RehearsalClock(), Added.GAUSSIAN),
        (True, RehearsalClock(), Added.REHEARSED),
        (True, MachineClock(), Added.SEEDED),
    ],
)
def test_noise_that_others_can_subtract_is_charged_as_what_it_is(
    make_world: WorldMaker, is_seeded: bool, clock: Clock, noise: Added
) -> None:
    world = make_world(policy={"unsafe_seeded_noise": is_seeded})
    site = world.site("ash")
    prepare = world.agent(site, 1, clock)._materials.prepare
    gate = Gate(site, prepare, observed=clock.observed)
    admission = gate.admit(world.question(world.contract).contract)
    account, encoding = admission.account(), admission.step
    charge = account.charge(encoding, None, 0, NO_VIEW, 1.0)
    assert charge.mechanism == noise.value
    assert charge.is_private is (noise is not Added.SEEDED)
    assert (account.limit(encoding) is None) is (noise is Added.SEEDED)
    assert site.ledger.reserve(charge, account.limit(encoding))
