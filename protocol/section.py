"""Open sections of a plan: the name of a kind and its values, which only that kind understands.

Whoever signs, stores, sends or audits a contract handles sections as data. Whoever trains reads them with
a registry (`hortus.runtime.registry`), which returns the kind: configuration and behaviour together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from hortus.runtime.canonical import canonical_json, digest
from hortus.runtime.schema import Schema

if TYPE_CHECKING:
    from hortus.protocol.plan import Agreement

KIND_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class Section(BaseModel):
    """A kind's name and its values, all explicit: what is hashed and approved."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, JsonValue]

    kind: str = Field(pattern=KIND_PATTERN)

    @model_validator(mode="before")
    @classmethod
    def _of_kind(cls, value: Any) -> Any:  # noqa: ANN401 - whatever a file or a caller gives
        """Takes a kind itself, and a kind's fields as Python has them, for plans that are built in code."""
        if isinstance(value, Kind):
            return value.model_dump(mode="json")
        if isinstance(value, Mapping):
            return {key: list(one) if isinstance(one, tuple) else one for key, one in value.items()}
        return value

    @model_validator(mode="after")
    def _has_canonical_bytes(self) -> Self:
        canonical_json(self.fields)  # raises ValueError at NaN and infinity
        return self

    @property
    def fields(self) -> dict[str, Any]:
        """All of it as JSON values, `kind` included."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Returns the hash that a policy allows a section by, 64 hexadecimal digits."""
        return digest(self.fields)


class Kind(Schema):
    """The base of every kind: a section's fields, and what they mean in code.

    A subclass states its name as `kind: Literal["name"] = "name"`, and says what each field may do at a site where
    nobody has read the plan: `unread` has the reason why a stranger may choose it, or
    a number that it must not exceed unless the site's policy says otherwise. `listed` names the fields that
    hold a list of words, for which a plan file may give the path of a text file, one word a line.
    """

    listed: ClassVar[tuple[str, ...]] = ()
    unread: ClassVar[Mapping[str, str | float]] = MappingProxyType({})

    kind: str

    def fit(self, plan: Agreement) -> None:
        """Checks the kind against the rest of its plan.

        Raises:
            UsageError: They do not fit together.
        """

    @property
    def section(self) -> Section:
        """The kind as it stands in a contract."""
        return Section.model_validate(self)
