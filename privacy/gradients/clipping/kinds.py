"""The table of clipping rules."""

from hortus.privacy.gradients.clipping.base import Clipping
from hortus.runtime.registry import Registry

CLIPPINGS: Registry[Clipping] = Registry(
    "clipping rule",
    ("privacy", "clipping"),
    "hortus.clippings",
    {
        "adaptive": "hortus.privacy.gradients.clipping.adaptive:AdaptiveClipping",
        "automatic": "hortus.privacy.gradients.clipping.automatic:AutomaticClipping",
        "flat": "hortus.privacy.gradients.clipping.flat:FlatClipping",
        "per-layer": "hortus.privacy.gradients.clipping.per_layer:PerLayerClipping",
    },
    default="flat",
)
