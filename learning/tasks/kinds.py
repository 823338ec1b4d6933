"""The tasks."""

from hortus.learning.tasks.base import Task
from hortus.runtime.registry import Registry

TASKS: Registry[Task] = Registry(
    "task",
    ("task",),
    "hortus.tasks",
    {
        "text-classification": "hortus.learning.tasks.classification:TextClassification",
    },
    default="text-classification",
)
