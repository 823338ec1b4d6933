"""Files that people write, in YAML: read with errors that name file and line.

A document may have settings (`--set training.rounds=3`): values that replace the file's own. They are
read, validated and complained about as if they stood in it, but under their own name.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from hortus.runtime.errors import UsageError, in_one_line

_SETTING_CHARACTERS = 80
_OPTION = "--set "
_TEXT, _MAPPING, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "null"))

# Where a value is, from the top: keys and indices.
Place: TypeAlias = Sequence[str | int]


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


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that replaces a file's own.

    Attributes:
        keys: Where it belongs, from the top.
        text: The value, in YAML.
        name: The option as it was given, to be named in errors.
    """

    keys: tuple[str, ...]
    text: str
    name: str

    @classmethod
    def parse(cls, option: str) -> "Setting":
        """Reads `section.key=value`.

        Raises:
            UsageError: It has no `=`, or an empty key.
        """
        dotted, sign, text = option.partition("=")
        keys = tuple(key.strip() for key in dotted.split("."))
        name = in_one_line(_OPTION + option, _SETTING_CHARACTERS)
        if not sign or not all(keys):
            raise UsageError(
                "this is not a key and value",
                where=name,
                remedy="Write a key as it is in the file, its sections joined by dots: "
                "--set training.rounds=3",
            )
        return cls(keys, text, name)


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file that holds one mapping, as it is written.

    Attributes:
        path: The file.
        root: What is in it, settings included. Each node knows where it was read from.
        settings: What stands in for values of the file.
    """

    path: Path
    root: yaml.MappingNode
    settings: tuple[Setting, ...] = ()

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] = ()) -> "Document":
        """Reads a file.

        Args:
            path: The file.
            settings: Each as `section.key=value`.

        Raises:
            UsageError: The file is missing, not UTF-8, not YAML or not a mapping, or a setting cannot be
                read or has no place in it; names the line, or the setting.
        """
        root = _compose(_read_text(path), str(path))
        if not isinstance(root, yaml.MappingNode):
            value = None if root is None else _construct(root, str(path))
            kind = "empty" if value is None else f"a {type(value).__name__}"
            raise UsageError(
                f"the file is {kind}, not a mapping of keys to values", where=str(path)
            )
        _construct(root, str(path))  # what is wrong in the file is wrong also where it is replaced
        parsed = tuple(Setting.parse(setting) for setting in settings)
        for number, setting in enumerate(parsed):
            _check_alone(setting, parsed[:number])
            _put(root, setting)
        return cls(path, root, parsed)

    def fields(self) -> dict[str, Any]:
        """Returns what the file says, with the settings."""
        value = _construct(self.root, str(self.path))
        assert isinstance(value, dict)  # noqa: S101 - its root is a mapping
        return value

    def written(self, place: Place) -> str | None:
        """Returns a plain value as it is written: `no`, where Python reads False."""
        node = self._nearest(place)[-1]
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def source(self, place: Place) -> str:
        """Returns the name of whatever has the value at a place: the file, or a setting."""
        for node in reversed(self._nearest(place)):
            if (name := node.start_mark.name) != str(self.path):
                return str(name)
        return str(self.path)

    def sources_within(self, place: Place) -> str:
        """Returns the names of all that has a say about a section: the file, and settings within it."""
        source, depth = self.source(place), len(place)
        within = [one.name for one in self.settings if one.keys[:depth] == tuple(place)]
        names = " ".join(dict.fromkeys(name for name in within if name != source))
        return f"{source} with {names}" if names else source

    def _nearest(self, place: Place) -> list[yaml.Node]:
        """Returns the nodes on the way to a place, as far as there are any."""
        node: yaml.Node | None = self.root
        way: list[yaml.Node] = []
        for part in (*place, None):
            if node is None:
                break
            way.append(node)
            node = None if part is None else _inner(node, part)
        return way


def _compose(text: str, name: str) -> yaml.Node | None:
    """Parses YAML; names are for errors, and stay with the nodes."""
    try:
        loader = _StrictLoader(text)
        loader.name = name
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise UsageError(f"this is not YAML: {error.reason}", where=_line(name, line)) from error
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, name) from error
    except RecursionError as error:
        raise _odd_value(name) from error


def _construct(node: yaml.Node, name: str) -> Any:  # noqa: ANN401 - whatever YAML can say
    try:
        return _StrictLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, name) from error
    except (ValueError, IndexError, RecursionError) as error:  # of a 13th month, `!!int`, or `[[[…`
        raise _odd_value(name) from error


def _not_yaml(error: yaml.MarkedYAMLError, name: str) -> UsageError:
    mark = error.problem_mark or error.context_mark
    where = _line(name, mark.line) if mark else name
    return UsageError(f"this is not YAML: {error.problem}", where=where)


def _line(name: str, line: int) -> str:
    """Names a line, from 0, of a file; a setting is one line."""
    return name if name.startswith(_OPTION) else f"{name}, line {line + 1}"


def _odd_value(name: str) -> UsageError:
    problem = "a value is not what it looks like, or is nested too deeply"
    return UsageError(f"this is not YAML: {problem}", where=name)


def _check_alone(setting: Setting, before: Sequence[Setting]) -> None:
    """Refuses a setting that takes an earlier one's place: which of them is meant?"""
    for other in before:
        if other.keys[: len(setting.keys)] == setting.keys:
            raise UsageError(
                f"it conflicts with {other.name}",
                where=setting.name,
                remedy="Give one of them, or the larger section first.",
            )


def _put(root: yaml.MappingNode, setting: Setting) -> None:
    """Puts a setting's value where it belongs; sections that are not there yet are made."""
    mark = yaml.Mark(setting.name, 0, 0, 0, None, 0)
    value = _compose(setting.text, setting.name) or yaml.ScalarNode(_NULL, "", mark, mark)
    _construct(value, setting.name)
    section = root
    for depth, key in enumerate(setting.keys[:-1], start=1):
        inner = _inner(section, key)
        if inner is None or inner.tag == _NULL:
            inner = yaml.MappingNode(_MAPPING, [], mark, mark)
            _replace(section, key, inner)
        if not isinstance(inner, yaml.MappingNode):
            whole = ".".join(setting.keys[:depth])
            raise UsageError(
                f"{whole} has no keys",
                where=setting.name,
                remedy=f"Set the whole value: --set {whole}=VALUE",
            )
        section = inner
    _replace(section, setting.keys[-1], value)


def _replace(section: yaml.MappingNode, key: str, value: yaml.Node) -> None:
    for number, (known, _) in enumerate(section.value):
        if known.value == key:
            section.value[number] = (known, value)
            return
    name = yaml.ScalarNode(_TEXT, key, value.start_mark, value.end_mark)
    section.value.append((name, value))


def _inner(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def load_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds one mapping.

    Raises:
        UsageError: The file is missing, not UTF-8, not YAML or not a mapping; it names the line.
    """
    return Document.read(path).fields()


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
