"""The plan reference, written from the schema: `python -m hortus.cli.plan_reference docs/plan.md`."""

import sys
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hortus.planning.sections import REGISTRIES
from hortus.protocol.plan import Plan
from hortus.protocol.policy import Policy
from hortus.protocol.section import Kind, Section
from hortus.runtime.registry import Registry
from hortus.simulation.engines.kinds import ENGINES
from hortus.strategies.optimizers.kinds import OPTIMIZERS

_HEAD = """# Plan and policy reference

Generated from the schemas of plans and policies in `protocol/`, and from the kinds in the registries, by
`make docs`; a test fails when it is stale. A plan is a YAML file; an unknown key is an error, with the
nearest known one named.
"""
_SHOWN: tuple[Registry[Any], ...] = (*REGISTRIES, OPTIMIZERS, ENGINES)


def reference() -> str:
    """Returns docs/plan.md."""
    parts = [_HEAD, "## Plan\n", *_section(Plan, "")]
    for registry in _SHOWN:
        parts += _kinds(registry)
    return "\n".join([*parts, "## Policy (policy.yaml of a site)\n", *_section(Policy, "")])


def _kinds(registry: Registry[Any]) -> Iterator[str]:
    """One heading for each kind of a section."""
    yield f"## Kinds of {registry.noun}\n"
    for name in registry.names():
        kind = registry.kind(name)
        default = " (default)" if name == registry.default else ""
        yield f"### `{name}`{default}\n\n{_summary(kind)}\n"
        if set(kind.model_fields) > {"kind"}:
            yield from _section(kind, "")


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if name == "kind" and issubclass(model, Kind):
            continue
        inner = _model_in(field.annotation)
        if inner is not None and not issubclass(inner, Kind | Section):
            nested.append((f"{prefix}{name}", inner))
        meaning = field.description or _summary(inner)
        row = (
            _open_section(f"{prefix}{name}")
            if inner is Section
            else (_type(field.annotation), _default(field))
        )
        yield f"| `{name}` | {' | '.join(row)} | {meaning} |"
    yield ""
    for path, inner in nested:
        yield f"### `{path}`\n\n{_summary(inner)}\n"
        yield from _section(inner, f"{path}.")


def _open_section(path: str) -> tuple[str, str]:
    """Returns where a section's kinds are, and which is the default."""
    (registry,) = (registry for registry in _SHOWN if ".".join(registry.place) == path)
    default = f"`{registry.default}`" if registry.default else "**required**"
    anchor = registry.noun.replace(" ", "-")
    return f"[{registry.noun}](#kinds-of-{anchor})", default


def _summary(model: type[BaseModel] | None) -> str:
    return (model.__doc__ or "").strip().splitlines()[0] if model else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any type form
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for part in get_args(annotation) if (m := _model_in(part))), None)


def _type(annotation: Any) -> str:  # noqa: ANN401 - any type form
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, Union):
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and issubclass(annotation, Kind):
        return f"[{annotation.__name__.lower()}](#kinds-of-{annotation.__name__.lower()})"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}
    return names.get(annotation.__name__, str(annotation.__name__).lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default is PydanticUndefined or default in ({}, ()):
        return "–"
    if isinstance(default, Kind):
        return f"`{default.kind}`"
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default.value if isinstance(default, Enum) else default}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
