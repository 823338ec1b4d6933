"""The methods of fine-tuning."""

from hortus.learning.methods.base import Method
from hortus.runtime.registry import Registry

METHODS: Registry[Method] = Registry(
    "adapter",
    ("adapter",),
    "hortus.methods",
    {
        "dora": "hortus.learning.methods.dora:DoRA",
        "ffa-lora": "hortus.learning.methods.ffa_lora:FFALoRA",
        "head": "hortus.learning.methods.head:Head",
        "ia3": "hortus.learning.methods.ia3:IA3",
        "lora": "hortus.learning.methods.lora:LoRA",
    },
    default="lora",
)
