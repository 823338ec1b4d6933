"""Hortus: privacy-preserving federated fine-tuning of language models.

What this package exports is the public API, documented in `hortus.api`; every other module is private.

    import hortus

    plan = hortus.Plan.load("plan.yaml")
    print(hortus.cost(plan).epsilon)
    run = hortus.simulate(plan, on_round=print)
    assert hortus.audit(run).holds
    print(hortus.load(run).predict(["…"]))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hortus.api import (
        Audit,
        Cost,
        HortusError,
        Plan,
        Round,
        Run,
        audit,
        cost,
        kinds,
        load,
        simulate,
    )

__all__ = [
    "Audit",
    "Cost",
    "HortusError",
    "Plan",
    "Round",
    "Run",
    "__version__",
    "audit",
    "cost",
    "kinds",
    "load",
    "simulate",
]
__version__: str


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is exported
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported when it is first used: a command needs none of it, and answers a slip in a tenth of a second.
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("hortus")
    from hortus import api  # noqa: PLC0415

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
