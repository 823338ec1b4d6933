"""Worlds of four real sites, and what their logs say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.world import SITES, World
from numpy.typing import NDArray

from hortus.learning.models.folder import model_digest
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract

WorldMaker = Callable[..., World]
NOISE_MULTIPLIER = 5.0


@pytest.fixture(scope="session")
def _workbenches() -> dict[str, Workbench]:
    return {}


@pytest.fixture
def contract(write_plan: Any, tiny_model: Path) -> Callable[..., Contract]:
    """Makes the approved contract; keyword arguments replace sections of the plan."""

    def make(**changes: Any) -> Contract:
        sections = {
            "adapter": {"rank": 16},
            "cohort": {
                "minimum": 3,
                "max_colluding": 1,
                "join_deadline": 20,
                "step_deadline": 20,
            },
        }
        for section, value in changes.items():
            sections[section] = sections.get(section, {}) | value
        plan = load_plan(write_plan(**sections))
        return plan.contract(
            model_digest=model_digest(tiny_model), noise_multiplier=NOISE_MULTIPLIER
        )

    return make


@pytest.fixture
def make_world(
    contract: Callable[..., Contract],
    tmp_path: Path,
    tiny_model: Path,
    _workbenches: dict[str, Workbench],
) -> Iterator[WorldMaker]:
    """Makes a world; `policy` changes every site's policy, other arguments the plan."""
    worlds: list[World] = []

    def make(policy: dict[str, Any] | None = None, **changes: Any) -> World:
        agreed = contract(**changes)
        if "" not in _workbenches:
            _workbenches[""] = Workbench(agreed, tiny_model)
        data = {site: tmp_path / f"{site}.csv" for site in SITES}
        data["dogwood"].write_bytes(data["cedar"].read_bytes())
        directory = tmp_path / f"consortium-{len(worlds)}"
        world = World.create(directory, agreed, _workbenches[""], data, policy or {})
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        for site in world.opened:
            site.__exit__()


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    """A world whose plan has generous deadlines."""
    return make_world()


@pytest.fixture
def adapter(world: World) -> NDArray[np.float32]:
    """Where the step starts."""
    dimension = world.workbench.space.dimension
    return np.random.default_rng(0).normal(0, 0.05, dimension).astype(np.float32)


@pytest.fixture
def log_of(caplog: pytest.LogCaptureFixture) -> Callable[[str], str]:
    """Returns what a site's agent has logged: it runs in a thread of the site's name."""
    caplog.set_level("INFO")
    return lambda site: "\n".join(
        record.getMessage() for record in caplog.records if record.threadName == site
    )
