"""Which sections of a plan hold kinds, and which registry reads each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
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
"""In the order in which their errors are shown."""


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
    for registry, outer in _around(completed):
        name = registry.place[-1]
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


def read_lists(
    fields: Mapping[str, Any], folder: Path, source: Document | None = None
) -> dict[str, Any]:
    """Returns a plan's fields with the lists that it names files for (`Kind.listed`).

    Args:
        fields: The plan's; changed nowhere.
        folder: What relative paths are relative to.
        source: The document that they come from.

    Raises:
        UsageError: A file cannot be read.
    """
    located = dict(fields)
    for registry, outer in _around(located):
        written, name = outer.get(registry.place[-1]), registry.place[-1]
        if not isinstance(written, Mapping):
            continue
        try:
            kind, _ = registry.kind_of(written, source, registry.place)
        except UsageError:
            continue  # said by `complete`
        for field in kind.listed:
            if isinstance(written.get(field), str):
                place = (*registry.place, field)
                where = ".".join(place)
                where = f"{source.source(place)}: {where}" if source else where
                lines = _read_list(folder / written[field], where)
                outer[name] = written = dict(written) | {field: lines}
    return located


def _around(fields: dict[str, Any]) -> Iterator[tuple[Registry[Any], dict[str, Any]]]:
    """Yields each registry with what its section stands in, copied into the fields so that it may be changed."""
    for registry in REGISTRIES:
        outer = fields
        for key in registry.place[:-1]:
            if not isinstance(outer.get(key), Mapping):
                break  # said of the plan
            outer[key] = dict(outer[key])
            outer = outer[key]
        else:
            yield registry, outer


def _read_list(path: Path, where: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the list cannot be read from its file: {error}",
            where=where,
            remedy="Give a list, or the path of a UTF-8 file with one item a line.",
        ) from error
    return [line for line in lines if line.strip()]


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
