"""What the server carries from step to step."""

import numpy as np
import pytest

from hortus.privacy.step import StepEncoding
from hortus.protocol.plan import Optimizer, Plan
from hortus.runtime.errors import HortusError, UsageError
from hortus.strategies.server_optimizer import check_optimizer
from hortus.strategies.server_state import ServerState


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "SGD", "learning_rate": 3e38},
        {"name": "Adam", "options": {"eps": 0.0}},  # 0/0 where a coordinate of the sum is 0
    ],
    ids=["rate", "eps"],
)
def test_training_that_diverges_ends_with_its_cause(
    plan: Plan, optimizer: dict[str, object]
) -> None:
    fields = plan.model_dump()
    fields["training"]["server_optimizer"] = optimizer
    contract = Plan(**fields).contract(model_digest="a" * 64, noise_multiplier=1.0)
    encoding = StepEncoding.of(contract, 3, 2)
    trained = ServerState(contract, np.zeros(3, np.float32))
    with pytest.raises(HortusError, match="not finite"):
        trained.step(encoding, np.array([2**30, 0, 0], np.uint32), 2)


@pytest.mark.parametrize(
    "options", [{"momentun": 0.9}, {"momentum": -1.0}, {"differentiable": True}], ids=str
)
def test_options_that_the_optimizer_does_not_take_are_found_before_training(
    options: dict[str, bool | float],
) -> None:
    with pytest.raises(UsageError, match=r"^training.local_optimizer.options: torch.optim.SGD"):
        check_optimizer(Optimizer(name="SGD", options=options), "training.local_optimizer")


@pytest.mark.parametrize(
    ("training", "name", "rate"),
    [
        ({}, "Adam", 0.02),
        ({"server_optimizer": {"name": "SGD"}}, "SGD", 1.0),
        ({"server_optimizer": {"name": "Adagrad"}}, "Adagrad", 0.02),
        ({"update": "delta", "local_optimizer": {"name": "SGD"}}, "SGD", 1.0),
    ],
)
def test_the_default_steps_suit_what_is_summed(
    plan: Plan, training: dict[str, object], name: str, rate: float
) -> None:
    fields = plan.model_dump(exclude_unset=True)
    fields["training"] = {
        key: value for key, value in fields["training"].items() if "optimizer" not in key
    } | training
    fields["privacy"] = fields["privacy"] | {"noise": "local"}
    optimizer = Plan.model_validate(fields).training.server_optimizer
    assert (optimizer.name, optimizer.learning_rate) == (name, rate)
