"""The table of samplers."""

from hortus.privacy.gradients.samplers.base import Sampler
from hortus.runtime.registry import Registry

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    ("training", "sampler"),
    "hortus.samplers",
    {"poisson": "hortus.privacy.gradients.samplers.poisson:PoissonSampler"},
    default="poisson",
)
