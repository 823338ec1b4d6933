"""The base of everything that is read from a document: frozen, and strict about keys."""

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hortus.runtime.complaints import validation_error
from hortus.runtime.documents import Document, Place, load_yaml
from hortus.runtime.files import write_atomic


class Schema(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(
        cls,
        fields: Any,  # noqa: ANN401 - whatever a document holds
        source: Document | Path | str,
        at: Place = (),
        context: object = None,
    ) -> Self:
        """Reads what somebody has written.

        Args:
            fields: What was written.
            source: Where: a document, its file, or what to call it where there is no file.
            at: Where in the document it stands.
            context: Given to validators.

        Raises:
            UsageError: It is wrong; names each field.
        """
        try:
            return cls.model_validate(fields, context=context)
        except ValidationError as error:
            raise validation_error(source, error, cls, at) from error


class SchemaFile(Schema):
    """A schema with a YAML file of its own."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the file.

        Raises:
            UsageError: It cannot be read or is wrong; names each field.
        """
        return cls.parse(load_yaml(path), path)

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads; what is None is left out."""
        fields = self.model_dump(mode="json", exclude_none=True)
        write_atomic(path, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode())
