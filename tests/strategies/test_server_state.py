"""What the server carries from step to step."""

import numpy as np
import pytest

from hortus.planning.plan_file import make_plan
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Plan
from hortus.runtime.errors import HortusError
from hortus.strategies.server_state import ServerState


@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "SGD", "learning_rate": 3e38},
        {"kind": "Adam", "options": {"eps": 0.0}},  # 0/0 where a coordinate of the sum is 0
    ],
    ids=["rate", "eps"],
)
def test_training_that_diverges_ends_with_its_cause(
    plan: Plan, optimizer: dict[str, object]
) -> None:
    fields = plan.model_dump()
    fields["strategy"]["server_optimizer"] = optimizer
    contract = make_plan(fields).contract(model_digest="a" * 64, noise_multiplier=1.0)
    encoding = PrivateStep.of(contract, 3, 2)
    trained = ServerState(contract, np.zeros(3, np.float32))
    with pytest.raises(HortusError, match="not finite"):
        trained.step(encoding, np.array([2**30, 0, 0], np.uint32), 2)
