"""The table of simulation engines."""

from hortus.protocol.plan import Plan
from hortus.runtime.registry import Registry
from hortus.simulation.engines.base import Engine

ENGINES: Registry[Engine] = Registry(
    "simulation engine",
    ("simulation", "engine"),
    "hortus.simulation_engines",
    {
        "rehearsal": "hortus.simulation.engines.rehearsal:Rehearsal",
        "in-process": "hortus.simulation.engines.in_process:InProcess",
    },
    default="rehearsal",
)


def engine_of(plan: Plan) -> Engine:
    """Returns the engine of a plan's simulation; the default one where the plan has none.

    Raises:
        UsageError: There is no such engine, or its fields are wrong.
    """
    written = {} if plan.simulation is None else plan.simulation.engine.fields
    engine = ENGINES.complete(written)
    engine.fit(plan)
    return engine


def with_engine(plan: Plan, name: str | None) -> Plan:
    """Returns a plan with another simulation engine; its own values stay where it has that one already.

    Args:
        plan: The plan.
        name: The engine; None: the plan's own.

    Raises:
        UsageError: There is no such engine.
    """
    if name is None or plan.simulation is None or plan.simulation.engine.kind == name:
        return plan
    section = ENGINES.complete({"kind": name}, place=("--engine",)).section
    simulation = plan.simulation.model_copy(update={"engine": section})
    return plan.model_copy(update={"simulation": simulation})
