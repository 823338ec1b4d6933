"""One model in memory: whoever holds it has it alone, and with the adapter that was asked for."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from hortus.learning.models.folder import model_digest
from hortus.learning.warm_model import WarmModel
from hortus.planning.plan_file import load_plan
from hortus.runtime.errors import UsageError
from tests.conftest import PlanWriter


@pytest.fixture
def warm(write_plan: PlanWriter, tiny_model: Path) -> WarmModel:
    return WarmModel(load_plan(write_plan()), tiny_model)


def test_training_starts_alike_in_every_process_and_elsewhere_with_another_seed(
    write_plan: PlanWriter, tiny_model: Path
) -> None:
    starts = [
        WarmModel(load_plan(write_plan(seed=seed)), tiny_model).initial_adapter
        for seed in (3, 3, 4)
    ]
    assert starts[0].dtype == np.float32
    assert starts[0].tobytes() == starts[1].tobytes() != starts[2].tobytes()
    assert np.isfinite(starts[0]).all()


def test_the_adapter_is_written_and_the_base_model_is_not(
    warm: WarmModel, tiny_model: Path
) -> None:
    trained = {name for name, one in warm.model.named_parameters() if one.requires_grad}
    frozen = {
        name: one.detach().clone()
        for name, one in warm.model.named_parameters()
        if name not in trained
    }
    adapter = np.linspace(-1, 1, warm.space.dimension, dtype=np.float32)
    with warm.holding(adapter) as model:
        assert warm.space.read(model).tobytes() == adapter.tobytes()
        now = dict(model.named_parameters())
        assert all(torch.equal(now[name], before) for name, before in frozen.items())
    with warm.holding(warm.initial_adapter) as model:
        assert warm.space.read(model).tobytes() == warm.initial_adapter.tobytes()
    assert model_digest(tiny_model) == model_digest(tiny_model)


def test_nobody_else_has_the_model_meanwhile(warm: WarmModel) -> None:
    other, seen = np.zeros_like(warm.initial_adapter), list[bytes]()
    entered = threading.Event()

    def hold() -> None:
        entered.set()
        with warm.holding(other) as model:
            seen.append(warm.space.read(model).tobytes())

    with warm.holding(warm.initial_adapter) as model:
        thread = threading.Thread(target=hold)
        thread.start()
        assert entered.wait(10)
        thread.join(0.2)
        assert thread.is_alive(), "it waits"
        assert warm.space.read(model).tobytes() == warm.initial_adapter.tobytes()
    thread.join(10)
    assert seen == [other.tobytes()]


def test_an_error_lets_the_next_one_in(warm: WarmModel) -> None:
    with pytest.raises(ValueError, match="a record"), warm.holding(warm.initial_adapter):
        raise ValueError("a record")
    with warm.holding(warm.initial_adapter):
        pass


def test_an_adapter_that_fits_no_layer_is_refused_at_once(
    write_plan: PlanWriter, tiny_model: Path
) -> None:
    plan = load_plan(write_plan(adapter={"kind": "lora", "targets": ["no_such_layer"]}))
    with pytest.raises(UsageError, match="no_such_layer"):
        WarmModel(plan, tiny_model)


def test_another_loader_shares_the_model_and_not_the_passes(warm: WarmModel) -> None:
    assert warm.another_loader() is not warm.loader
