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

from hortus.protocol.plan import Plan
from hortus.protocol.policy import Policy

_HEAD = """# Plan and policy reference

Generated from the schemas in `protocol/plan.py` and `protocol/policy.py` by `make docs`; a test fails
when it is stale. A plan is a YAML file; an unknown key is an error, with the nearest known one named.
"""


def reference() -> str:
    """Returns docs/plan.md."""
    parts = [_HEAD, "## Plan\n", *_section(Plan, ""), "## Policy (policy.yaml of a site)\n"]
    return "\n".join([*parts, *_section(Policy, "")])


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield "| key | type | default | meaning |\n| --- | --- | --- | --- |"
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            nested.append((f"{prefix}{name}", inner))
        meaning = field.description or _summary(inner)
        yield f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {meaning} |"
    yield ""
    for path, inner in nested:
        yield f"### `{path}`\n\n{_summary(inner)}\n"
        yield from _section(inner, f"{path}.")


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
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default.value if isinstance(default, Enum) else default}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
