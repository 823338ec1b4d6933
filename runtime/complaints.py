"""What is wrong in a document, a line for each field: where it was written, what, and the nearest key."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hortus.runtime.documents import Document, Place
from hortus.runtime.errors import UsageError

_SCREEN_LINES = 20
_VALUE_CHARACTERS = 60

# What a type annotation is at run time: a class, a union, `tuple[X, ...]`, `Annotated[X, ...]`.
_Annotation: TypeAlias = Any


def validation_error(
    source: Document | Path | str,
    error: ValidationError,
    model: type[BaseModel],
    at: Place = (),
) -> UsageError:
    """Puts what pydantic found on one screen, one line a field, with the nearest key that exists.

    Args:
        source: What was read: a document, its file, or a name for it if it has no file.
        error: What pydantic raised.
        model: The model that it was read as.
        at: Where in the document that begins.
    """
    found: dict[tuple[str, str], list[str]] = {}
    errors = error.errors(include_url=False)
    document = _read_again(source) if isinstance(source, Path) else None
    if isinstance(source, Document):
        document = source
    for details in errors:
        if details["type"] == "default_factory_not_called":
            continue  # what it needed is wrong itself
        if details["type"] == "too_short" and _is_wrong_within(details["loc"], errors):
            continue  # short of what is wrong itself
        place, complaint = _complaint(model, details, document, at)
        name = str(source) if document is None else _source(document, place, details)
        found.setdefault((name, _dotted(place)), []).append(complaint)
    lines = [
        f"{name}: {field + ': ' if field else ''}{_merge(complaints)}"
        for (name, field), complaints in found.items()
    ]
    if len(lines) > _SCREEN_LINES:
        lines[_SCREEN_LINES:] = [f"… and {len(lines) - _SCREEN_LINES} more"]
    return UsageError("\n".join(lines))


def _read_again(path: Path) -> Document | None:
    try:
        return Document.read(path)
    except UsageError:
        return None  # no file, but options, say


def _source(document: Document, place: Place, details: ErrorDetails) -> str:
    is_rule = isinstance(details["input"], dict) and details["type"] != "missing"
    return document.sources_within(place) if is_rule else document.source(place)


def _is_wrong_within(location: tuple[int | str, ...], errors: list[ErrorDetails]) -> bool:
    return any(e["loc"][: len(location)] == location != e["loc"] for e in errors)


def _complaint(
    model: type[BaseModel], details: ErrorDetails, document: Document | None, at: Place
) -> tuple[list[str | int], str]:
    """Returns where a field is and what is wrong with it."""
    location = details["loc"]
    if details["type"] == "extra_forbidden":
        place, level = _descend(model, location[:-1])
        place = [*at, *place]
        unknown = str(location[-1])
        known = sorted({name for part in level for name in _fields(part)})
        nearest = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
        return [*place, unknown], f"there is no such key: {advice}"
    place = [*at, *_descend(model, location)[0]]
    if details["type"] == "missing":
        return place, "missing"
    value = json.dumps(details["input"], ensure_ascii=False, default=str)
    written = document and document.written(place)
    if details["type"] == "string_type" and written:
        return place, f"{written} → is read as {value}, not as text: put it in quotes"
    if len(value) > _VALUE_CHARACTERS:
        value = value[: _VALUE_CHARACTERS - 1] + "…"
    message = details["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "should be", 1)
    # A rule over a whole mapping names its fields itself; the mapping would only repeat them.
    return place, message if isinstance(details["input"], dict) else f"{value} → {message}"


def _merge(complaints: list[str]) -> str:
    """Joins the complaints of a union's members about one value."""
    if len(complaints) == 1:
        return complaints[0]
    value, _, first = complaints[0].partition(" → ")
    if not first:
        return "; ".join(dict.fromkeys(complaints))
    return f"{value} → " + ", or ".join(dict.fromkeys(c.partition(" → ")[2] for c in complaints))


def _dotted(path: list[str | int]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")


def _descend(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str | int], list[_Annotation]]:
    """Follows pydantic's location into the model.

    Returns:
        The parts that are in the file (pydantic's also name members of unions), and the types
        that the place may have.
    """
    path: list[str | int] = []
    level: list[_Annotation] = [model]
    for part in location:
        inner = [member for outer in level for member in _inside(outer, part)]
        if inner:
            path.append(part)
            level = inner
        elif named := [member for member in level if _is_tagged(member, part)]:
            level = named
        elif not path and part == location[-1]:
            path.append(part)
    return path, level


def _members(annotation: _Annotation) -> Iterator[_Annotation]:
    """Yields the types of a union, without `Annotated`."""
    origin: Any = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in {Union, UnionType}:
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _inside(annotation: _Annotation, part: str | int) -> list[_Annotation]:
    """Returns the types that a key or index of this type leads to."""
    fields, arguments = _fields(annotation), get_args(annotation)
    origin: Any = get_origin(annotation)
    if part in fields:
        return list(_members(fields[str(part)]))
    if origin is dict and isinstance(part, str):
        return list(_members(arguments[1]))
    if origin in {list, tuple, set, frozenset} and isinstance(part, int):
        position = part if Ellipsis not in arguments and part < len(arguments) else 0
        return list(_members(arguments[position]))
    return []


def _fields(annotation: _Annotation) -> dict[str, _Annotation]:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {}
    return {
        field.alias or name: field.annotation for name, field in annotation.model_fields.items()
    }


def _is_tagged(annotation: _Annotation, tag: str | int) -> bool:
    """Whether pydantic means this member of a union: by class name or by a discriminator's value."""
    if getattr(annotation, "__name__", None) == tag:
        return True
    return any(tag in get_args(field) for field in _fields(annotation).values())
