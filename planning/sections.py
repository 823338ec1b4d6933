"""Which sections of a plan are kinds', and which registry reads each."""

from collections.abc import Iterator, Mapping
from typing import Any

from hortus.learning.methods.kinds import METHODS
from hortus.learning.tasks.kinds import TASKS
from hortus.privacy.accounting.accountants.kinds import ACCOUNTANTS
from hortus.privacy.gradients.clipping.kinds import CLIPPINGS
from hortus.privacy.gradients.engines.kinds import ENGINES
from hortus.privacy.gradients.samplers.kinds import SAMPLERS
from hortus.protocol.plan import Agreement
from hortus.protocol.section import Kind, Section
from hortus.runtime.documents import Document
from hortus.runtime.errors import UsageError
from hortus.runtime.registry import Registry
from hortus.strategies.kinds import STRATEGIES

REGISTRIES: tuple[Registry[Any], ...] = (
    TASKS,
    METHODS,
    STRATEGIES,
    SAMPLERS,
    CLIPPINGS,
    ACCOUNTANTS,
    ENGINES,
)
"""In the order in which their complaints are shown."""


def complete(
    fields: Mapping[str, Any], source: Document | None = None
) -> tuple[dict[str, Any], list[UsageError]]:
    """Fills in every section of a plan with its kind's defaults.

    Args:
        fields: The plan's; changed nowhere.
        source: The document that they come from.

    Returns:
        The plan's fields, and what is wrong. A section that is wrong holds its kind's name alone.
    """
    completed, wrong = dict(fields), []
    for registry in REGISTRIES:
        outer, name = completed, registry.place[-1]
        for key in registry.place[:-1]:
            if not isinstance(outer.get(key), Mapping):
                break  # said of the plan
            outer[key] = dict(outer[key])
            outer = outer[key]
        else:
            written = outer.get(name)
            if written is None and registry.default is None:
                continue  # missing, which is said of the plan
            try:
                kind = registry.complete({} if written is None else written, source)
                outer[name] = kind.model_dump(mode="json")
            except UsageError as error:
                wrong.append(error)
                outer[name] = {"kind": "wrong"}
    return completed, wrong


def kinds(plan: Agreement) -> Iterator[tuple[str, Kind]]:
    """Yields every section's kind, by its place in the plan, such as `privacy.clipping`.

    Raises:
        UsageError: There is no such kind, or its fields are wrong.
        HortusError: A section is not as this process's own kind would complete it.
    """
    for registry in REGISTRIES:
        section: Any = plan
        for key in registry.place:
            section = getattr(section, key)
        assert isinstance(section, Section)  # noqa: S101 - the schema's
        yield ".".join(registry.place), registry.parse(section)


def check(plan: Agreement) -> None:
    """Checks that every section is a kind's of this process, and fits the rest of the plan.

    Raises:
        UsageError: One does not, or there is no such kind.
        HortusError: A section is not as this process's own kind would complete it.
    """
    for _, kind in kinds(plan):
        kind.fit(plan)
