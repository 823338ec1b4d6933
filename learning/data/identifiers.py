"""What in a text identifies somebody, as far as a finder sees it: told to a site's operator, or masked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from hortus.protocol.section import Kind
from hortus.runtime.registry import Registry

FIELD = "mask_identifiers"
"""The line of site.yaml that names a finder."""


class Identifier(NamedTuple):
    """A passage of a text.

    Attributes:
        kind: What it seems to be, such as `EMAIL_ADDRESS`.
        start: Its first character.
        end: The character after its last.
    """

    kind: str
    start: int
    end: int


class Finder(Kind):
    """Finds identifiers; the base of every finder. It may ask nobody outside this process."""

    @abstractmethod
    def find(self, text: str) -> list[Identifier]:
        """Returns what it finds, in the order of the text; passages may overlap."""

    @property
    @abstractmethod
    def blind_to(self) -> str:
        """What it does not find, in words, for whoever relies on it."""

    def mask(self, text: str) -> str:
        """Returns a text with every passage replaced by its kind, as `<EMAIL_ADDRESS>`."""
        parts, last = [], 0
        for one in apart(self.find(text)):
            parts += [text[last : one.start], f"<{one.kind}>"]
            last = one.end
        return "".join([*parts, text[last:]])


FINDERS: Registry[Finder] = Registry(
    "finder of identifiers",
    (FIELD,),
    "hortus.identifiers",
    {"presidio": "hortus.learning.data.presidio:Presidio"},
    default="presidio",
    needs={"presidio": "pip install 'hortus[identifiers]'"},
)


def finder_of(named: bool | Mapping[str, Any]) -> Finder | None:
    """Returns the finder that a line of site.yaml names; None for `false`.

    Raises:
        UsageError: There is no such finder, its fields are wrong, or it is not installed.
    """
    if named is False:
        return None
    return FINDERS.complete({} if named is True else named)


def apart(found: Iterable[Identifier]) -> list[Identifier]:
    """Returns passages that do not overlap: those that do become one, with the kind of the longest."""
    joined: list[Identifier] = []
    longest = 0
    for one in sorted(found, key=lambda each: (each.start, -each.end)):
        if joined and one.start < joined[-1].end:
            before, length = joined[-1], one.end - one.start
            kind = one.kind if length > longest else before.kind
            joined[-1] = Identifier(kind, before.start, max(before.end, one.end))
            longest = max(longest, length)
        else:
            joined.append(one)
            longest = one.end - one.start
    return joined


def in_texts(value: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - whatever a file holds
    """Returns a cell with every text in it changed, however deep in lists and objects; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [in_texts(one, change) for one in value]
    if isinstance(value, Mapping):
        return {key: in_texts(one, change) for key, one in value.items()}
    return value
