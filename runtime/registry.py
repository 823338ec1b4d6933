"""Kinds by name: a table of what is imported when it is first used, and what others have installed.

A kind is a class in a file of its own. The table names it as `module:Class`, so that to list kinds, or to read a plan
that uses some of them, imports no others. Packages of third parties add kinds by entry points, which are
loaded only where somebody has allowed the package: a site by its policy, whoever simulates or serves by installing it.
"""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationInfo

from hortus.runtime.canonical import canonical_json
from hortus.runtime.documents import Document, Place
from hortus.runtime.errors import HortusError, UsageError, in_one_line
from hortus.runtime.schema import Schema

K = TypeVar("K", bound=Schema)

_allowed: frozenset[str] | None = frozenset()  # closed until somebody opens it


def allow_plug_ins(packages: Collection[str] | None) -> None:
    """Says which packages' kinds this process may load.

    Args:
        packages: Names of distributions, as pip knows them; None: whatever is installed.
    """
    global _allowed  # noqa: PLW0603 - a process has one operator
    _allowed = None if packages is None else frozenset(map(_normal, packages))
    _entry_points.cache_clear()


class Registry(Generic[K]):
    """The kinds of one section of a plan.

    Args:
        noun: What a kind is called in messages, such as `task`.
        place: Where the section is in a plan.
        group: Entry points of third parties, such as `hortus.tasks`.
        kinds: `module:Class` by name.
        default: The kind of a section that names none; None: it must.
        needs: What to install for a kind, by name, where Hortus alone does not bring it.
    """

    def __init__(
        self,
        noun: str,
        place: tuple[str, ...],
        group: str,
        kinds: Mapping[str, str],
        default: str | None = None,
        needs: Mapping[str, str] | None = None,
    ) -> None:
        self.noun = noun
        self.place = place
        self.default = default
        self._group = group
        self._kinds = dict(kinds)
        self._needs = dict(needs or {})
        self._parse = lru_cache(maxsize=64)(self._read)

    def names(self) -> tuple[str, ...]:
        """Returns the names of all kinds that may be loaded here, sorted."""
        return tuple(sorted({*self._kinds, *self._plug_ins()}))

    def kind(self, name: str, where: str | None = None) -> type[K]:
        """Returns a kind's class.

        Args:
            name: The kind.
            where: The place that names it, for errors; None: the section's.

        Raises:
            UsageError: No kind has that name, more than one package brings it, or what it needs is not installed.
        """
        where = where or _path((*self.place, "kind"))
        target = self._kinds.get(name)
        try:
            if target is not None:
                module, _, attribute = target.partition(":")
                found = getattr(import_module(module), attribute)
            elif plug_ins := self._plug_ins().get(name):
                found = self._only(name, plug_ins, where).load()
            else:
                raise self._unknown(name, where)
        except ImportError as error:
            raise UsageError(
                f"the {self.noun} {name!r} needs a package that is not installed here ({error})",
                where=where,
                remedy=f"Install it: {self._needs.get(name, 'see its documentation')}",
            ) from error
        return found  # type: ignore[no-any-return]

    def complete(
        self, fields: object, source: Document | None = None, place: Place | None = None
    ) -> K:
        """Reads a section that somebody has written, defaults filled in.

        Args:
            fields: A mapping, `kind` and values; values of defaults may be left out.
            source: The document, to name the line in errors.
            place: Where the section is in it; None: `place`.

        Raises:
            UsageError: There is no such kind, or its fields are wrong; names each.
        """
        place = self.place if place is None else tuple(place)
        found, named = self.kind_of(fields, source, place)
        return found.parse(named, source or "plan", place, context=(source, place))

    def kind_of(
        self, fields: object, source: Document | None, place: Place
    ) -> tuple[type[K], dict[str, Any]]:
        """Returns the class of a section that somebody has written, and its fields with `kind` among them.

        Args:
            fields: As of `complete`.
            source: As of `complete`.
            place: Where the section is in the document.

        Raises:
            UsageError: It names no kind, or there is no such kind.
        """
        name = fields.get("kind", self.default) if isinstance(fields, Mapping) else None
        if not isinstance(fields, Mapping) or not isinstance(name, str):
            raise UsageError(
                f"it is not a mapping whose `kind` names the {self.noun}",
                where=self._source(source, place),
                remedy=f"Write `kind:` and one of: {', '.join(self.names())}.",
            )
        found = self.kind(name, self._source(source, (*place, "kind")))
        return found, dict(fields) | {"kind": name}

    def nested(self) -> BeforeValidator:
        """Returns what reads a field of another kind as a section of this registry."""

        def read(value: object, info: ValidationInfo) -> object:
            if not isinstance(value, Mapping):
                return value
            source, place = info.context or (None, self.place[:-1])
            return self.complete(value, source, (*place, info.field_name or ""))

        return BeforeValidator(read)

    def parse(self, section: BaseModel) -> K:
        """Reads a contract's section: every value explicit, and just as this process's own kind has it.

        Raises:
            UsageError: There is no such kind, or its fields are wrong.
            HortusError: The kind would complete the section in another way: this version of it is another.
        """
        return self._parse(canonical_json(section.model_dump(mode="json")), _allowed)

    def _read(self, encoded: bytes, _: frozenset[str] | None) -> K:
        """Reads a section; what was allowed to be loaded is part of what the answer depends on."""
        fields: dict[str, Any] = json.loads(encoded)
        kind = self.complete(fields)
        own = kind.model_dump(mode="json")
        if canonical_json(own) != encoded:
            differing = sorted(
                key for key in own.keys() | fields.keys() if own.get(key) != fields.get(key)
            )
            raise HortusError(
                f"the {self.noun} {fields['kind']!r} differs from the contract's: it states {', '.join(differing) or 'its values'} differently",
                where=_path(self.place),
                remedy="Install the same version of Hortus, or of the package that brings this kind.",
            )
        return kind

    def _plug_ins(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in _entry_points(self._group):
            if point.name not in self._kinds and _is_allowed(point):
                found.setdefault(point.name, []).append(point)
        return found

    def _only(self, name: str, points: Sequence[EntryPoint], where: str) -> EntryPoint:
        """Returns the one package's kind of a name: which of several is meant, no contract could say."""
        if len(points) == 1:
            return points[0]
        packages = [point.dist.name for point in points if point.dist is not None]
        raise UsageError(
            f"the {self.noun} {name!r} is brought by more than one package: {', '.join(packages)}",
            where=where,
            remedy="Uninstall all of them but one, or at a site allow only one in policy.yaml: "
            f"plug_ins: [{packages[0]}]",
        )

    def _unknown(self, name: str, where: str) -> UsageError:
        for point in _entry_points(self._group):
            if point.name == name and point.dist:
                return UsageError(
                    f"the {self.noun} {name!r} comes from the package {point.dist.name}, which is not allowed here",
                    where=where,
                    remedy=f"If you trust it: policy.yaml: plug_ins: [{point.dist.name}]",
                )
        known = self.names()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return UsageError(
            f"there is no {self.noun} {in_one_line(name, 60)!r}",
            where=where,
            remedy=f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}.",
        )

    @staticmethod
    def _source(document: Document | None, place: Place) -> str:
        return f"{document.source(place)}: {_path(place)}" if document else _path(place)


@lru_cache(maxsize=64)
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=_order))


def _order(point: EntryPoint) -> tuple[str, str]:
    return point.name, _normal(point.dist.name) if point.dist is not None else ""


def _is_allowed(point: EntryPoint) -> bool:
    return point.dist is not None and (_allowed is None or _normal(point.dist.name) in _allowed)


def _path(place: Place) -> str:
    return ".".join(map(str, place))


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
