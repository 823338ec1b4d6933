"""The table of gradient engines."""

from hortus.privacy.gradients.engines.base import GradientEngine
from hortus.runtime.registry import Registry

ENGINES: Registry[GradientEngine] = Registry(
    "gradient engine",
    ("privacy", "engine"),
    "hortus.gradient_engines",
    {
        "hortus": "hortus.privacy.gradients.engines.hortus:HortusEngine",
        "opacus": "hortus.privacy.gradients.engines.opacus:OpacusEngine",
    },
    default="hortus",
)
