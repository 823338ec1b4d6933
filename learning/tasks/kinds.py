"""The tasks."""

from hortus.learning.tasks.base import Task
from hortus.runtime.registry import Registry

TASKS: Registry[Task] = Registry(
    "task",
    ("task",),
    "hortus.tasks",
    {
        "chat": "hortus.learning.tasks.chat:Chat",
        "text-classification": "hortus.learning.tasks.classification:TextClassification",
        "token-classification": "hortus.learning.tasks.tagging:TokenClassification",
    },
    default="text-classification",
)
