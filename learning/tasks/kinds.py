"""The tasks."""

from hortus.learning.tasks.base import Task
from hortus.runtime.registry import Registry

TASKS: Registry[Task] = Registry(
    "task",
    ("task",),
    "hortus.tasks",
    {
        "chat": "hortus.learning.tasks.chat:Chat",
        "extractive-qa": "hortus.learning.tasks.extractive_qa:ExtractiveQA",
        "multi-label": "hortus.learning.tasks.multi_label:MultiLabel",
        "regression": "hortus.learning.tasks.regression:Regression",
        "masked-pretraining": "hortus.learning.tasks.pretraining:MaskedPretraining",
        "preferences": "hortus.learning.tasks.preferences:Preferences",
        "pretraining": "hortus.learning.tasks.pretraining:Pretraining",
        "text-classification": "hortus.learning.tasks.classification:TextClassification",
        "text-to-text": "hortus.learning.tasks.text_to_text:TextToText",
        "token-classification": "hortus.learning.tasks.tagging:TokenClassification",
    },
    default="text-classification",
)
