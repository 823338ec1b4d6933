"""Nodes that answer the control plane in another site's name, or with nonsense."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.world import SITES, UNTIMED, World
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from hortus.client.flower.relay import relay_app
from hortus.client.pace import Clock
from hortus.learning.warm_model import WarmModel
from hortus.protocol.answer import Answer
from hortus.protocol.identity import Identity, Roster
from hortus.runtime.errors import ProtocolError
from hortus.runtime.names import SERVER
from hortus.server.evaluation import Evaluator
from hortus.server.grid_sites import GridSites
from hortus.server.round_loop import RoundLoop
from hortus.server.run.attendance import AttendanceBook
from hortus.server.run.store import RunStore
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving
from hortus.simulation.local_grid import LocalGrid

NODE = "node-of-eve"


def _node(answer: Callable[[Message], RecordDict]) -> ClientApp:
    """A node with a true SuperNode's key that runs an app of its own."""
    app = ClientApp()

    @app.query()
    def query(message: Message, _: Context) -> Message:
        return Message(answer(message), reply_to=message)

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return Message(answer(message), reply_to=message)

    return app


def _refuses_for_ash(_: Message) -> RecordDict:
    fields = {"site": "ash", "refusal": "never again", "again": 0, "signature": bytes(64)}
    return RecordDict({"answer": ConfigRecord(fields)})


def _accepts_for_elm(_: Message) -> RecordDict:
    fields = {"site": "elm", "refusal": "", "again": 0, "signature": bytes(64)}
    return RecordDict({"answer": ConfigRecord(fields)})


def _would_have_all_wait_for_ash(_: Message) -> RecordDict:
    fields = {"site": "ash", "refusal": "", "again": 3600, "signature": bytes(64)}
    return RecordDict({"answer": ConfigRecord(fields)})


def _says_nothing(_: Message) -> RecordDict:
    return RecordDict()


def _says_nonsense(_: Message) -> RecordDict:
    return RecordDict({"answer": ConfigRecord({"site": 7, "refusal": [1, 2], "signature": "x"})})


def _loop(
    world: World, grid: LocalGrid, hub: Hub, store: RunStore, evaluator: Evaluator
) -> RoundLoop:
    """The server of a world."""
    files, roster = world.consortium.server, Roster.load(world.consortium.server.roster)
    attendance = AttendanceBook(store.directory, roster.sites, time.time, grid.names)
    reached = GridSites(
        grid=grid,
        identity=Identity.load(files.identity, SERVER),
        roster=lambda: roster,
        contract=world.contract,
        store=store,
        hub=hub,
        attendance=attendance,
    )
    return RoundLoop(reached, world.contract, store, evaluator, attendance, lambda _: None)


@pytest.mark.parametrize(
    "answer",
    [
        _refuses_for_ash,
        _accepts_for_elm,
        _would_have_all_wait_for_ash,
        _says_nothing,
        _says_nonsense,
    ],
)
def test_a_node_speaks_for_itself_alone(
    make_world: Callable[..., World],
    tiny_model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[[Message], RecordDict],
) -> None:
    """All four sites take part in the round, and nothing is noted against them."""
    world = make_world(training={"rounds": 1, "steps_per_round": 1})
    hub = Hub(Notary.open(world.consortium.server, lambda: 1.8e9))
    store = RunStore(tmp_path / "run", world.contract)
    with serving(hub, world.consortium.server.tls, "127.0.0.1:0", len(SITES)) as port:
        apps: dict[str, ClientApp] = {NODE: _node(answer)}
        for site in SITES:
            apps[site] = relay_app(partial(_reach, world.agent(world.site(site), port)))
        grid = LocalGrid(apps)
        evaluator = Evaluator(WarmModel(world.contract, tiny_model), None)
        final = _loop(world, grid, hub, store, evaluator).run()
        grid.close()
    assert np.isfinite(final).all()
    assert [record.sites for record in store.rounds] == [SITES]
    assert not store.departures
    assert "a node's answer does not count" in caplog.text


class _Fast:
    """A watched site's clock that runs at so many times the speed of the wall's."""

    observed = True
    speed = 10.0

    def now(self) -> float:
        return self.speed * time.monotonic()

    def wait(self, seconds: float, unless: threading.Event) -> None:
        unless.wait(seconds / self.speed)


def test_a_site_that_prepares_is_asked_again_and_misses_no_session(
    make_world: Callable[..., World], tiny_model: Path, tmp_path: Path
) -> None:
    """Its first answer is neither yes nor no, and three other sites would be enough."""
    world = make_world(training={"rounds": 1, "steps_per_round": 2})
    answers: list[tuple[str, int]] = []
    clocks: dict[str, Clock] = {"ash": _Fast()}

    class Noting:
        def __init__(self, agent: Any) -> None:
            self.agent = agent
            self.take_part = agent.take_part

        def consider(self, request: Any) -> Any:
            reply = self.agent.consider(request)
            answers.append((reply.site, reply.again))
            return reply

    hub = Hub(Notary.open(world.consortium.server, lambda: 1.8e9))
    store = RunStore(tmp_path / "run", world.contract)
    with serving(hub, world.consortium.server.tls, "127.0.0.1:0", len(SITES)) as port:
        agents = {s: world.agent(world.site(s), port, clocks.get(s, UNTIMED)) for s in SITES}
        grid = LocalGrid({s: relay_app(partial(_reach, Noting(a))) for s, a in agents.items()})
        _loop(world, grid, hub, store, Evaluator(WarmModel(world.contract, tiny_model), None)).run()
        grid.close()
    assert [record.sites for record in store.rounds] == [SITES]
    assert not store.departures
    of_ash = [again for site, again in answers if site == "ash"]
    assert of_ash[0] == 5
    assert of_ash[-1] == 0
    assert len(answers) == 3 + len(of_ash)


def test_an_answer_counts_for_the_question_that_it_was_given_to(world: World) -> None:
    """Neither kept from another question, nor with the refusal taken out."""
    site = world.site("ash")
    roster = Roster.load(world.consortium.server.roster)
    answer = Answer.sign(site.identity, b"1" * 32, b"contract", "no")
    answer.verify(roster, b"1" * 32, b"contract")
    for challenge, contract in ((b"2" * 32, b"contract"), (b"1" * 32, b"another")):
        with pytest.raises(ProtocolError, match="does not match the key"):
            answer.verify(roster, challenge, contract)
    with pytest.raises(ProtocolError, match="does not match the key"):
        Answer("ash", "", 0, answer.signature).verify(roster, b"1" * 32, b"contract")
    with pytest.raises(ProtocolError, match="does not match the key"):
        Answer("ash", "no", 9, answer.signature).verify(roster, b"1" * 32, b"contract")
    with pytest.raises(ProtocolError, match="does not match the key"):
        Answer("birch", "no", 0, answer.signature).verify(roster, b"1" * 32, b"contract")


def _reach(agent: Any, _: Context) -> Any:
    return nullcontext(agent)
