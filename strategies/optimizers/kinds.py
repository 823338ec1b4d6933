"""The table of optimisers."""

from typing import Annotated

from pydantic import SerializeAsAny

from hortus.runtime.registry import Registry
from hortus.strategies.optimizers.base import Optimizer

_TORCH = "hortus.strategies.optimizers.torch_optim"

OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    ("strategy", "server_optimizer"),
    "hortus.optimizers",
    {
        "SGD": f"{_TORCH}:SGD",
        "Adam": f"{_TORCH}:Adam",
        "AdamW": f"{_TORCH}:AdamW",
        "Adagrad": f"{_TORCH}:Adagrad",
        "RMSprop": f"{_TORCH}:RMSprop",
        "Yogi": "hortus.strategies.optimizers.yogi:Yogi",
    },
)

# The type of a field that holds any of them.
AnyOptimizer = Annotated[SerializeAsAny[Optimizer], OPTIMIZERS.nested()]
