"""The public Python API, which `import hortus` offers; every other module is private and may change.

Nothing heavy is imported before a function needs it: PyTorch, Flower and the accountants take seconds to load.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hortus.api.audits import Audit, audit
from hortus.api.models import load
from hortus.api.plans import Cost, Plan, cost
from hortus.api.runs import Round, Run, simulate
from hortus.planning.sections import REGISTRIES
from hortus.runtime.errors import HortusError
from hortus.runtime.registry import Registry
from hortus.simulation.engines.kinds import ENGINES
from hortus.strategies.optimizers.kinds import OPTIMIZERS

__all__ = [
    "Audit",
    "Cost",
    "HortusError",
    "Plan",
    "Round",
    "Run",
    "audit",
    "cost",
    "kinds",
    "load",
    "simulate",
]

kinds: Mapping[str, Registry[Any]] = MappingProxyType(
    {registry.noun: registry for registry in (*REGISTRIES, OPTIMIZERS, ENGINES)}
)
"""The kinds that plans can name, by what they are: `kinds["task"].names()`."""
