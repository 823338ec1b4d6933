"""What a site logs does not depend on its records: two sites with other data write the same lines."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from attacks.world import SITES, World, run_all, served

from hortus.client.agent_service import listening
from hortus.client.disclosure import Disclosure
from hortus.protocol.wire import aggregation_pb2_grpc as rpc
from hortus.runtime.logs import Form, configure_logging

WorldMaker = Callable[..., World]
# Two datasets that differ in everything: words, number, shares of labels, and row that is wrong.
DATASETS = {
    "few": [("the sky is blue", "cool")] * 7 + [("zyxwv apple", "warm")] * 2,
    "many": [("grass is a leaf", "fresh")] * 41 + [("quokka rose fire", "warm")] * 30,
}
TELLTALE = ("sky", "zyxwv", "grass", "quokka", "cool", "warm", "fresh", "mauve", "secret")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    logger = logging.getLogger("hortus")
    level = logger.level
    yield
    logger.setLevel(level)
    logger.propagate = True
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def lines_of(
    world: World, log: Path, rows: list[tuple[str, str]], patch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Takes part, then meets records that do not fit, then a defect that quotes a record."""
    configure_logging(log, Form.JSON)
    logging.getLogger("hortus").setLevel(logging.DEBUG)
    data = {site: world.consortium.site(site).directory / "records.csv" for site in SITES}
    for site, path in data.items():
        write(path, rows)
        config = world.consortium.site(site).config
        config.write_text(f"site: {site}\ndata: records.csv\n")
    adapter = np.zeros(world.workbench.space.dimension, np.float32)
    with served(world) as (session, port):

        def serve() -> None:
            session.exchange_keys()
            session.sum(0, adapter)
            session.close("done")

        run_all({"server": serve, "sites": lambda: world.play(port)}, 90)
    site = world.site("ash")
    agent = world.agent(site, port=1)
    assert not agent.consider(world.question(world.contract)).refusal
    write(data["ash"], [*rows, ("secret words", "mauve")])
    refusal = world.agent(world.site("ash"), port=1).consider(world.question(world.contract))
    assert refusal.refusal == "it failed; its own log says why"

    def quoting(*_: object) -> None:
        raise RuntimeError(f"cannot encode 'secret {rows[0][0]}'")

    patch.setattr(agent._gate, "admit", quoting)
    patch.setattr(agent, "_disclosure", Disclosure(observed=True, hides=True))
    defect = agent.consider(world.question(world.contract))
    assert defect.refusal == refusal.refusal, "one failure sounds like another"
    patch.setattr(agent, "consider", quoting)
    with (
        listening(agent, site.files.directory / "run") as socket,
        grpc.insecure_channel(f"unix:{socket}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        rpc.AgentStub(channel).Consider(world.question(world.contract))
    assert caught.value.details() == "the agent failed; see this site's own log"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_no_log_depends_on_a_record(
    make_world: WorldMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = {}
    for name, rows in DATASETS.items():
        log = tmp_path / "logs" / f"{name}.log"
        told[name] = lines_of(make_world(), log, rows, monkeypatch)
    events = {
        name: sorted((line["level"], line["logger"], line["event"]) for line in lines)
        for name, lines in told.items()
    }
    assert events["few"] == events["many"]
    said = " ".join(event for _, _, event in events["few"])
    assert "joins session" in said
    assert "the records do not fit the plan" in said
    assert "a defect: RuntimeError in test_logs.py" in said
    output = capfd.readouterr()
    everything = said + output.out + output.err
    assert not [word for word in TELLTALE if word in everything]
