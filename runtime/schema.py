"""The base of everything that is read from a document: frozen, and strict about keys."""

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
