"""The table of trackers."""

from hortus.runtime.registry import Registry
from hortus.server.trackers.base import Tracker

TRACKERS: Registry[Tracker] = Registry(
    "tracker",
    ("report_to",),
    "hortus.trackers",
    {
        "mlflow": "hortus.server.trackers.mlflow:MLflow",
        "tensorboard": "hortus.server.trackers.tensorboard:TensorBoard",
        "wandb": "hortus.server.trackers.wandb:WandB",
    },
)
