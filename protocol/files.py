"""Files that people write and files that must survive a crash: read with precise errors, or whole."""

import contextlib
import difflib
import json
import os
import secrets
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hortus.protocol.errors import HortusError, UsageError
from hortus.protocol.faults import Fault, reach

_SCREEN_LINES = 20
_VALUE_CHARACTERS = 60

# What a type annotation is at run time: a class, a union, `tuple[X, ...]`, `Annotated[X, ...]`.
_Annotation: TypeAlias = Any


def write_private(path: Path, data: bytes) -> None:
    """Writes a secret: all of it or nothing, durable, readable by its owner alone (0600)."""
    _write(path, data, 0o600, 0o700)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file: all of it or nothing, durable, with the permissions that the umask leaves."""
    _write(path, data, 0o666, 0o777)


def write_passing(path: Path, data: bytes) -> None:
    """Writes a file that tells how things stand just now: all of it or nothing, but not durably.

    A full disk is not worth a run: nothing is raised, and what was told before stays.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes, mode: int, directory_mode: int) -> None:
    # A name of its own beside the target: O_EXCL, so nobody can have put a link there.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=directory_mode, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                reach(Fault.FILE_BEFORE_FSYNC)
                os.fsync(file.fileno())
            reach(Fault.FILE_BEFORE_RENAME)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        reach(Fault.FILE_BEFORE_DIRECTORY_FSYNC)
        sync_directory(path.parent)
        reach(Fault.FILE_DURABLE)
    except OSError as error:
        raise HortusError(f"it cannot be written: {error.strerror}", where=str(path)) from error


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _StrictLoader(yaml.SafeLoader):
    """YAML whose keys are distinct strings: a second site of one name must not replace the first.

    It has no aliases: a few lines of them, on a stranger's card, are more than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="aliases (*) are not read", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, str):
                problem = (
                    f"the key {key_node.value!r} is read as {key!r}, not as text: put it in quotes"
                )
            elif key in seen:
                problem = f"the key {key!r} comes twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds one mapping.

    Raises:
        UsageError: The file is missing, not UTF-8, not YAML or not a mapping; it names the line.
    """
    text = _read_text(path)
    try:
        value = yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UsageError(f"this is not YAML: {error.problem}", where=where) from error
    except (ValueError, IndexError, RecursionError) as error:  # of a 13th month, `!!int`, or `[[[…`
        problem = "a value is not what it looks like, or is nested too deeply"
        raise UsageError(f"this is not YAML: {problem}", where=str(path)) from error
    except yaml.reader.ReaderError as error:
        where = f"{path}, line {text.count(chr(10), 0, error.position) + 1}"
        raise UsageError(f"this is not YAML: {error.reason}", where=where) from error
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise UsageError(f"the file is {kind}, not a mapping of keys to values", where=str(path))
    return value


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            where=f"{path}, line {line}",
            remedy="Save the file as UTF-8.",
        ) from error


def validation_error(path: Path, error: ValidationError, model: type[BaseModel]) -> UsageError:
    """Puts what pydantic found on one screen, one line a field, with the nearest key that exists.

    Args:
        path: The file that was read.
        error: What pydantic raised.
        model: The model that the whole file was read as.
    """
    found: dict[str, list[str]] = {}
    errors = error.errors(include_url=False)
    for details in errors:
        if details["type"] == "too_short" and _is_wrong_within(details["loc"], errors):
            continue  # short of what is wrong itself
        field, complaint = _complaint(model, details, _written(path, details["loc"]))
        found.setdefault(field, []).append(complaint)
    lines = [
        f"{path}: {field + ': ' if field else ''}{_merge(complaints)}"
        for field, complaints in found.items()
    ]
    if len(lines) > _SCREEN_LINES:
        lines[_SCREEN_LINES:] = [f"{path}: … and {len(lines) - _SCREEN_LINES} more"]
    return UsageError("\n".join(lines))


def _is_wrong_within(location: tuple[int | str, ...], errors: list[ErrorDetails]) -> bool:
    return any(e["loc"][: len(location)] == location != e["loc"] for e in errors)


def _written(path: Path, location: tuple[int | str, ...]) -> str | None:
    """Returns a plain value as a YAML file has it: `no`, where Python reads False."""
    try:
        node = yaml.compose(_read_text(path), _StrictLoader)
    except (UsageError, yaml.YAMLError):
        return None  # no file, but options, say
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _complaint(
    model: type[BaseModel], details: ErrorDetails, written: str | None
) -> tuple[str, str]:
    """Returns the field's path and what is wrong with it."""
    location = details["loc"]
    if details["type"] == "extra_forbidden":
        path, level = _descend(model, location[:-1])
        unknown = str(location[-1])
        known = sorted({name for part in level for name in _fields(part)})
        nearest = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
        return _dotted([*path, unknown]), f"there is no such key: {advice}"
    path, _ = _descend(model, location)
    if details["type"] == "missing":
        return _dotted([*path]), "missing"
    value = json.dumps(details["input"], ensure_ascii=False, default=str)
    if details["type"] == "string_type" and written:
        return _dotted(path), f"{written} → is read as {value}, not as text: put it in quotes"
    if len(value) > _VALUE_CHARACTERS:
        value = value[: _VALUE_CHARACTERS - 1] + "…"
    message = details["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "should be", 1)
    # A rule over a whole mapping names its fields itself; the mapping would only repeat them.
    return _dotted(path), message if isinstance(details["input"], dict) else f"{value} → {message}"


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
